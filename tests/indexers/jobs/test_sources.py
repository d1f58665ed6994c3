"""Documents that are in the index and no longer in their source are counted, and only those."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from regard.indexers import build_index, delete_documents
from regard.indexers.jobs import sources
from regard.indexers.stores import unfinished
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views import fresh_view, parse_view
from regard.rag import Document
from regard.rag.app.cli import app
from regard.rag.errors import ConfigError, DeletionRefused, EmptyCorpusError, StorageError
from typer.testing import CliRunner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    (made / "sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "sub/c.txt", "sub/d.txt"):
        (made / name).write_text(f"The text of {name}.")
    return made


def _build(corpus: Any, path: Path, **more: Any) -> Any:
    return build_index(corpus, path, encoder=None, chunker="whole", progress=False, **more)


def _ids(path: Path) -> set[str]:
    store = LanceStore(path)
    return set(store.document_ids(store.rows))


def test_a_file_that_vanished_is_counted_and_stays(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    assert _build(folder, index).vanished == 0
    (folder / "b.txt").unlink()
    shutil.rmtree(folder / "sub")
    for _ in range(2):  # as long as they are in the index
        report = _build(folder, index)
        assert (report.vanished, sorted(report.vanished_ids)) == (3, ["b.txt", "sub/c.txt", "sub/d.txt"])
        assert (report.unchanged, report.skipped) == (1, 0)
    assert _ids(index) == {"a.txt", "b.txt", "sub/c.txt", "sub/d.txt"}
    delete_documents(index, report.vanished_ids)
    assert _build(folder, index).vanished == 0
    (folder / "b.txt").write_text("It is back.")
    assert (_build(folder, index).added, _build(folder, index).vanished) == (1, 0)


def test_the_command_line_says_so(folder: Path, tmp_path: Path) -> None:
    command = ["index", str(folder), "--index", str(tmp_path / "i"), "--encoder", "none", "--chunker", "whole"]
    assert "no longer" not in CliRunner().invoke(app, command, catch_exceptions=False).stdout
    (folder / "b.txt").unlink()
    text = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert "1 documents of the index are no longer in their source: b.txt" in " ".join(text.split())
    report = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    assert (report["vanished"], report["vanished_ids"]) == (1, ["b.txt"])


def test_another_source_in_the_same_index_raises_no_alarm(folder: Path, tmp_path: Path) -> None:
    index, other = tmp_path / "i", tmp_path / "other"
    other.mkdir()
    (other / "e.txt").write_text("Another text.")
    (tmp_path / "lines.jsonl").write_text('{"id": "f", "text": "x"}\n{"id": "g", "text": "y"}\n')
    _build(folder, index)
    assert _build(other, index).vanished == 0
    assert _build(tmp_path / "lines.jsonl", index).vanished == 0
    assert _build([Document("in-python", "z")], index).vanished == 0
    assert _build([Document("in-python-too", "z")], index).vanished == 0  # what has no name cannot be missed from it
    assert _build(folder / "sub", index).vanished == 0
    assert _build(folder, index).vanished == 0
    (folder / "a.txt").unlink()
    (tmp_path / "lines.jsonl").write_text('{"id": "g", "text": "y"}\n')
    assert _build(other, index).vanished == 0
    assert _build([str(folder), str(tmp_path / "lines.jsonl")], index).vanished_ids == ["a.txt", "f"]


def test_a_document_belongs_to_where_it_was_read_last(folder: Path, tmp_path: Path) -> None:
    index, moved = tmp_path / "i", tmp_path / "moved"
    _build(folder, index)
    folder.rename(moved)
    version = LanceStore(index).version
    assert _build(moved, index).vanished == 0
    assert LanceStore(index).version == version  # noting the move made no view stale
    (moved / "a.txt").unlink()
    assert _build(moved, index).vanished_ids == ["a.txt"]
    _build([Document("b.txt", "Now it comes from Python.")], index)
    (moved / "b.txt").unlink()
    assert _build(moved, index).vanished_ids == ["a.txt"]


def test_one_source_has_one_name_however_it_is_spelled(folder: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "i"
    monkeypatch.chdir(tmp_path)
    _build("docs", index)
    (folder / "a.txt").unlink()
    (tmp_path / "link").symlink_to(folder)
    for spelling in ("docs", "./docs/", folder, str(folder), "link", "docs/../docs"):
        assert _build(spelling, index).vanished_ids == ["a.txt"]


def test_what_is_there_and_cannot_be_read_has_not_vanished(folder: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "i"
    _build(folder, index)
    (folder / "good.txt").write_text("This one is well.")
    (folder / "a.txt").write_bytes(b"\x00\x01")
    (folder / "b.txt").write_text(" ")
    original = os.scandir

    def refuses(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refuses)
    report = _build(folder, index)
    assert (report.skipped, report.vanished) == (3, 0)


def test_an_index_from_before_counts_none_and_learns(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    _build(folder, index)
    (index / sources.FILE).unlink()
    (folder / "a.txt").unlink()
    assert _build(folder, index).vanished == 0
    (folder / "b.txt").unlink()
    assert _build(folder, index).vanished_ids == ["b.txt"]


def test_a_folder_that_was_emptied_is_an_error_that_says_what_stays(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    _build(folder, index)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(EmptyCorpusError, match="what the index holds stays"):
        _build(folder, index)
    assert len(_ids(index)) == 4


def test_passages_of_one_document_count_once(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "short.txt").write_text("One sentence here.")
    (folder / "long.txt").write_text("One sentence here. " * 18_000)
    build_index(folder, tmp_path / "i", encoder=None, chunker="sentences:8,overlap=0", views=[], progress=False)
    assert len(LanceStore(tmp_path / "i")) > 8192  # more than Lance gives in one batch
    (folder / "long.txt").unlink()
    assert build_index(folder, tmp_path / "i", encoder=None, views=[], progress=False).vanished_ids == ["long.txt"]


def test_a_skip_may_have_any_location(tmp_path: Path) -> None:
    assert _build([Document("x" * 4000, "t"), Document("x" * 4000, "t"), Document("\0", " ")], tmp_path).skipped == 2


def test_a_damaged_book_is_named(folder: Path, tmp_path: Path) -> None:
    _build(folder, tmp_path / "i")
    (tmp_path / "i" / sources.FILE).write_bytes(b"no database" * 200)
    with pytest.raises(StorageError, match=r"sources\.sqlite"):
        _build(folder, tmp_path / "i")
    (tmp_path / "i" / sources.FILE).unlink()
    assert _build(folder, tmp_path / "i").unchanged == 4


# -- pruning ----------------------------------------------------------------------------


def test_what_vanished_is_pruned_in_one_commit_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    index, other = tmp_path / "i", tmp_path / "lines.jsonl"
    other.write_text('{"id": "f", "text": "x"}\n{"id": "g", "text": "y"}\n')
    _build([folder, other], index)
    (folder / "b.txt").unlink()
    (folder / "sub" / "c.txt").unlink()
    other.write_text('{"id": "g", "text": "y"}\n')
    assert _build([folder, other], index).pruned == 0
    before = LanceStore(index).version
    report = _build([folder, other], index, prune=True)
    assert (report.vanished, report.pruned, report.unchanged) == (3, 3, 3)
    assert LanceStore(index).version <= before + 2  # the next row's number, and the deletion
    assert _ids(index) == {"a.txt", "sub/d.txt", "g"}
    report = _build([folder, other], index, prune=True)
    assert (report.vanished, report.pruned) == (0, 0)


def test_another_sources_documents_are_never_pruned(folder: Path, tmp_path: Path) -> None:
    index, other = tmp_path / "i", tmp_path / "other"
    other.mkdir()
    (other / "e.txt").write_text("Another text.")
    _build(folder, index)
    _build([Document("in-python", "z")], index)
    shutil.rmtree(folder)
    assert _build(other, index, prune=True, prune_limit=1).pruned == 0
    assert len(_ids(index)) == 6


@pytest.mark.parametrize("gone", [["a.txt", "b.txt", "sub/c.txt"], ["a.txt", "b.txt", "sub/c.txt", "sub/d.txt"]])
def test_more_than_half_of_a_source_is_not_pruned_unless_that_is_said(gone: list[str], folder: Path,
                                                                      tmp_path: Path) -> None:
    """As of a disk that is not mounted. All else is done."""
    index, other = tmp_path / "i", tmp_path / "lines.jsonl"
    other.write_text('{"id": "f", "text": "x"}\n')
    _build([folder, other], index)
    for name in gone:
        (folder / name).unlink()
    other.write_text('{"id": "f", "text": "x"}\n{"id": "new", "text": "y"}\n')
    with pytest.raises(DeletionRefused, match=rf"{len(gone)} of 4 documents of .*docs have vanished") as refused:
        _build([folder, other], index, prune=True)
    assert "--prune-limit 1" in str(refused.value)
    assert _ids(index) == {"a.txt", "b.txt", "sub/c.txt", "sub/d.txt", "f", "new"}
    assert fresh_view(LanceStore(index), parse_view("bm25")).meta["version"] == LanceStore(index).version
    assert unfinished.jobs(index) == []
    assert _build([folder, other], index, prune=True, prune_limit=1).pruned == len(gone)
    assert _ids(index) == {"a.txt", "b.txt", "sub/c.txt", "sub/d.txt", "f", "new"} - set(gone)


def test_half_of_a_source_is_pruned(folder: Path, tmp_path: Path) -> None:
    _build(folder, tmp_path / "i")
    shutil.rmtree(folder / "sub")
    assert _build(folder, tmp_path / "i", prune=True).pruned == 2


def test_what_could_not_be_read_is_never_pruned(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, lines = tmp_path / "i", tmp_path / "lines.jsonl"
    lines.write_text('{"id": "f", "text": "x"}\n{"id": "g", "text": "y"}\n{"id": "h", "text": "z"}\n')
    _build([folder, lines], index)
    (folder / "a.txt").write_bytes(b"\x00\x01")
    # which record was that? h has gone, too, but who knows
    lines.write_text('{"id": "f", "text": "x"}\n{"id": "g", "te\n')
    original = os.scandir

    def refuses(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refuses)
    report = _build([folder, lines], index, prune=True, prune_limit=1)
    assert (report.skipped, report.pruned, report.vanished_ids) == (3, 0, ["g", "h"])
    assert len(_ids(index)) == 7


def test_pruning_at_the_command_line(folder: Path, tmp_path: Path) -> None:
    command = ["index", str(folder), "--index", str(tmp_path / "i"), "--encoder", "none", "--chunker", "whole"]
    CliRunner().invoke(app, command, catch_exceptions=False)
    (folder / "b.txt").unlink()
    text = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert "regard index --prune" in " ".join(text.split())
    text = CliRunner().invoke(app, [*command, "--prune"], catch_exceptions=False).stdout
    assert "1 of them were deleted" in " ".join(text.split())
    for name in ("a.txt", "sub/c.txt"):
        (folder / name).unlink()
    with pytest.raises(DeletionRefused):
        CliRunner().invoke(app, [*command, "--prune"], catch_exceptions=False)
    report = json.loads(CliRunner().invoke(app, [*command, "--prune", "--prune-limit", "1",
                                                 "--json"], catch_exceptions=False).stdout)
    assert (report["vanished"], report["pruned"]) == (2, 2)
    with pytest.raises(ConfigError, match="no share"):
        _build(folder, tmp_path / "i", prune=True, prune_limit=50)


def test_very_many_documents_are_pruned_at_once(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(f'{{"id": "it\'s number {i}", "text": "x"}}\n' for i in range(30_000)))
    build_index(lines, tmp_path / "i", encoder=None, chunker="whole", views=[], progress=False, shard_passages=30_000)
    lines.write_text('{"id": "it\'s number 7", "text": "x"}\n')
    assert build_index(lines, tmp_path / "i", encoder=None, views=[], progress=False, prune=True,
                       prune_limit=1).pruned == 29_999
    assert _ids(tmp_path / "i") == {"it's number 7"}
