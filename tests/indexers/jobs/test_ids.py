"""Two sources' files are told apart by their ids, and each file keeps the one it has."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.indexers import build_index, delete_documents
from regard.indexers.jobs import sources
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Document


def _build(corpus: Any, path: Path, **more: Any) -> Any:
    return build_index(corpus, path, encoder=None, chunker="whole", views=[], progress=False, **more)


def _texts(path: Path) -> dict[str, str]:
    with closing(LanceStore(path)) as store:
        passages = store.passages(store.rows)
    assert len({p.document_id for p in passages}) == len(passages)
    return {p.document_id: p.text for p in passages}


def _folder(path: Path, **files: str) -> Path:
    """``readme`` is README.md, ``sub__c`` is sub/c.md."""
    for name, text in files.items():
        file = path / f"{name.upper() if name == 'readme' else name.replace('__', '/')}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


@pytest.mark.parametrize("together", [True, False])
def test_the_second_folders_file_does_not_replace_the_firsts(tmp_path: Path, together: bool) -> None:
    """Failed before: the second README.md silently took the first one's place."""
    a = _folder(tmp_path / "a", readme="about a", only_a="x")
    b = _folder(tmp_path / "b", readme="about b", only_b="y")
    if together:
        _build([a, b], tmp_path / "i")
    else:
        _build(a, tmp_path / "i")
        report = _build(b, tmp_path / "i")
        assert (report.added, report.updated, report.replaced_from_other_source) == (2, 0, 0)
    held = {"README.md": "about a", "only_a.md": "x", "b/README.md": "about b", "only_b.md": "y"}
    assert _texts(tmp_path / "i") == held
    for again in ([a, b], [b, a], a, b, a / "", str(b)):
        report = _build(again, tmp_path / "i")
        assert (report.added, report.updated, report.skipped, report.vanished) == (0, 0, 0, 0)
        assert report.unchanged == report.documents
    assert _texts(tmp_path / "i") == held
    (b / "README.md").write_text("more about b")
    assert _build(b, tmp_path / "i").updated == 1
    assert _texts(tmp_path / "i") == {**held, "b/README.md": "more about b"}


def test_an_id_grows_by_the_folders_above_until_it_is_free(tmp_path: Path) -> None:
    folders = [_folder(tmp_path / f"{top}" / "docs", readme=f"about {top}") for top in ("one", "two", "three")]
    odd = _folder(tmp_path / "odd", docs__README="a file that is called so")
    for folder in (odd, *folders):
        _build(folder, tmp_path / "i")
    held = {"docs/README.md": "a file that is called so", "README.md": "about one", "two/docs/README.md": "about two",
            "three/docs/README.md": "about three"}
    assert _texts(tmp_path / "i") == held
    for folder in (odd, *folders):
        assert _build(folder, tmp_path / "i").unchanged == 1


def test_a_folder_whose_files_take_each_others_qualified_ids(tmp_path: Path) -> None:
    a = _folder(tmp_path / "a", readme="about a")
    b = _folder(tmp_path / "b", readme="about b", b__README="inside b", b__b__README="inside b in b")
    for _ in range(2):
        _build([a, b], tmp_path / "i")
        assert Counter(_texts(tmp_path / "i").values()) == Counter(["about a", "about b", "inside b", "inside b in b"])
    assert _build([a, b], tmp_path / "i").unchanged == 4


def test_a_moved_folder_keeps_its_ids_plain_and_qualified(tmp_path: Path) -> None:
    a, b = _folder(tmp_path / "a", readme="about a"), _folder(tmp_path / "b", readme="about b", other="z")
    _build([a, b], tmp_path / "i")
    held = _texts(tmp_path / "i")
    moved = b.rename(tmp_path / "moved")
    assert _build(moved, tmp_path / "i").unchanged == 2
    assert _texts(tmp_path / "i") == held
    a.rename(tmp_path / "a2")
    assert _build([tmp_path / "a2", moved], tmp_path / "i").unchanged == 3
    assert _texts(tmp_path / "i") == held


def test_a_file_keeps_its_id_when_the_one_that_was_in_its_way_is_gone(tmp_path: Path) -> None:
    a, b = _folder(tmp_path / "a", readme="about a"), _folder(tmp_path / "b", readme="about b")
    _build([a, b], tmp_path / "i")
    shutil.rmtree(a)
    assert _build(b, tmp_path / "i").unchanged == 1
    assert _texts(tmp_path / "i")["b/README.md"] == "about b"


def test_one_file_of_two_spellings_is_one_document(tmp_path: Path) -> None:
    """As a source of its own, and as a file of its folder; the folder by a link."""
    a = _folder(tmp_path / "a", readme="about a")
    (tmp_path / "link").symlink_to(a)
    for source in (a, a / "README.md", tmp_path / "link", tmp_path / "link" / "README.md"):
        _build(source, tmp_path / "i")
        assert _texts(tmp_path / "i") == {"README.md": "about a"}
    (a / "README.md").write_text("more")
    assert _build(a / "README.md", tmp_path / "i").replaced_from_other_source == 0


def test_a_qualified_file_that_cannot_be_read_or_vanished_is_known_by_its_path(tmp_path: Path) -> None:
    a, b = _folder(tmp_path / "a", readme="about a"), _folder(tmp_path / "b", readme="about b", other="z")
    _build([a, b], tmp_path / "i")
    (b / "README.md").write_bytes(b"\x00\x01")
    report = _build(b, tmp_path / "i", prune=True, prune_limit=1)
    assert (report.skipped, report.vanished) == (1, 0)
    (b / "README.md").unlink()
    report = _build(b, tmp_path / "i", prune=True)
    assert (report.vanished_ids, report.pruned) == (["b/README.md"], 1)
    assert _texts(tmp_path / "i") == {"README.md": "about a", "other.md": "z"}


def test_names_that_are_no_text_are_told_apart_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Path(os.fsdecode(os.fsencode(tmp_path / name) + b"/caf\xe9.txt")).write_text(f"in {name}")
    for _ in range(2):
        _build([tmp_path / "a", tmp_path / "b"], tmp_path / "i")
        assert _texts(tmp_path / "i") == {"caf\\xe9.txt": "in a", "b/caf\\xe9.txt": "in b"}


def test_ids_that_the_user_gave_are_never_changed_and_a_replacement_is_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "x", "text": "of {name}"}}\n{{"id": "{name}", "text": "t"}}\n')  # noqa: E501
    _build(tmp_path / "a.jsonl", tmp_path / "i")
    report = _build(tmp_path / "b.jsonl", tmp_path / "i")
    assert (report.updated, report.replaced_from_other_source) == (1, 1)
    assert _texts(tmp_path / "i") == {"x": "of b", "a": "t", "b": "t"}
    assert _build(tmp_path / "b.jsonl", tmp_path / "i").replaced_from_other_source == 0
    report = _build([Document("x", "from Python")], tmp_path / "i")
    assert (report.updated, report.replaced_from_other_source) == (1, 1)
    (tmp_path / "b.jsonl").rename(tmp_path / "moved.jsonl")
    _build(tmp_path / "moved.jsonl", tmp_path / "i")
    (tmp_path / "moved.jsonl").rename(tmp_path / "again.jsonl")
    (tmp_path / "again.jsonl").write_text('{"id": "x", "text": "edited"}\n{"id": "b", "text": "t"}\n')
    # a source that was moved is no other
    assert _build(tmp_path / "again.jsonl", tmp_path / "i").replaced_from_other_source == 0


def test_a_file_yields_to_a_record_of_its_id_and_both_stay(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "README.md", "text": "the record"}\n')
    b = _folder(tmp_path / "b", readme="the file")
    for source in (tmp_path / "a.jsonl", b, tmp_path / "a.jsonl", b):
        _build(source, tmp_path / "i")
    assert _texts(tmp_path / "i") == {"README.md": "the record", "b/README.md": "the file"}


def test_who_has_an_id_is_known_before_its_passages_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill right after the commit of A's passages must not let B take A's place."""
    a, b = _folder(tmp_path / "a", readme="about a"), _folder(tmp_path / "b", readme="about b")
    from regard.indexers.stores.lance.writer import StoreWriter

    original = StoreWriter.commit

    def dies(self: StoreWriter, *arguments: Any) -> None:
        original(self, *arguments)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "commit", dies)
        with pytest.raises(SystemExit):
            _build(a, tmp_path / "i")
    _build(b, tmp_path / "i")
    assert _texts(tmp_path / "i") == {"README.md": "about a", "b/README.md": "about b"}


_SOURCES = ("a", "b", "c/b", "d/c/b")
_FILES = ("x.md", "b/x.md", "c/b/x.md", "y.md")
_STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(_SOURCES), st.sampled_from(_FILES), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.sampled_from(_SOURCES), st.sampled_from(_FILES)),
    st.tuples(st.just("index"), st.lists(st.sampled_from(_SOURCES), min_size=1, max_size=3, unique=True)),
)


@settings(max_examples=15)
@given(steps=st.lists(_STEPS, min_size=4, max_size=14))
def test_any_jobs_over_colliding_folders_are_a_dictionary_by_source_and_file(
    steps: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A job sets what its sources hold to what is there. Contents name their source and file, so that a mix-up
    shows."""
    home = tmp_path_factory.mktemp("ids")
    roots = {name: home / "root" / name for name in _SOURCES}
    for root in roots.values():
        _write(root / "here.md", f"{root} is here", 0)
    index, model, ids = home / "i", dict[tuple[str, str], str](), dict[tuple[str, str], str]()
    for kind, *what in [*steps, ("index", list(_SOURCES))]:
        if kind == "write":
            _write(roots[what[0]] / what[1], f"{what[0]}/{what[1]}", what[2])
        elif kind == "remove":
            (roots[what[0]] / what[1]).unlink(missing_ok=True)
        else:
            _build([roots[name] for name in what[0]], index, prune=True, prune_limit=1)
            for name in what[0]:
                model = {key: text for key, text in model.items() if key[0] != name}
                model |= {(name, file.relative_to(roots[name]).as_posix()): file.read_text()
                          for file in roots[name].rglob("*.md")}
            texts = _texts(index)
            assert Counter(texts.values()) == Counter(model.values())
            ids = _ids(index, roots, model, texts, ids)
    report = _build(list(roots.values()), index, prune=True, prune_limit=1)
    assert (report.unchanged, report.vanished, report.skipped) == (report.documents, 0, 0)


def _write(file: Path, name: str, edition: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{name} edition {edition}")


def _ids(
    index: Path, roots: dict[str, Path], model: dict[tuple[str, str], str], texts: dict[str, str],
    before: dict[tuple[str, str], str],
) -> dict[tuple[str, str], str]:
    """The id of each file by the book, which must say the text that the model does, and what it said before."""
    names = {str(root): name for name, root in roots.items()}
    with closing(sources.Sources(index)) as book:
        found = {(names[book.source_of(one) or ""], book.path_of(one)): one for one in texts}
    assert {key: texts[one] for key, one in found.items()} == model
    for key in found.keys() & before.keys():
        assert found[key] == before[key]
    return found


def test_a_file_that_two_sources_hold_is_there_with_its_text(tmp_path: Path) -> None:
    """Sources that lie in one another: each file once or twice, and always what is in it."""
    outer = _folder(tmp_path / "a", x="outer", b__x="inner")
    for _ in range(2):
        _build([outer, outer / "b"], tmp_path / "i")
        assert _texts(tmp_path / "i") == {"x.md": "outer", "b/x.md": "inner"}
    (outer / "b" / "x.md").write_text("inner, edited")
    assert _build(outer / "b", tmp_path / "i").updated == 1
    assert _build(outer, tmp_path / "i").unchanged == 2
    assert _texts(tmp_path / "i") == {"x.md": "outer", "b/x.md": "inner, edited"}


def test_a_deleted_documents_id_stays_its_files(tmp_path: Path) -> None:
    a, b = _folder(tmp_path / "a", readme="about a"), _folder(tmp_path / "b", readme="about b")
    _build(a, tmp_path / "i")
    delete_documents(tmp_path / "i", ["README.md"])
    _build(b, tmp_path / "i")
    _build(a, tmp_path / "i")
    assert _texts(tmp_path / "i") == {"README.md": "about a", "b/README.md": "about b"}
