"""Documents that are in the index and no longer in their source are counted, and only those."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from regard.indexers import LanceStore, build_index, delete_documents, sources
from regard.rag import Document
from regard.rag.cli import app
from regard.rag.errors import EmptyCorpusError, StorageError
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


def test_one_source_has_one_name_however_it_is_spelled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "i"
    monkeypatch.chdir(tmp_path)
    _build("docs", index)
    (folder / "a.txt").unlink()
    (tmp_path / "link").symlink_to(folder)
    for spelling in ("docs", "./docs/", folder, str(folder), "link", "docs/../docs"):
        assert _build(spelling, index).vanished_ids == ["a.txt"]


def test_what_is_there_and_cannot_be_read_has_not_vanished(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
