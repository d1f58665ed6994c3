"""A job that is killed at any system call that changes a file: nothing committed is lost, and running it again comes to
what an undisturbed run does. Row numbers may have a gap afterwards; everything else is compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from regard.indexers import build_index
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Document

SAMPLED = 5
"""Points of each scenario in a default run; the slow tests try all."""


def points(lab: Any) -> list[dict[str, Any]]:
    """A kill before each call that changes files, and one half-way through each write."""
    changes = [call for call, *_ in lab.calls if call != "fsync"]
    return [{"mode": "kill", "n": n} for n in range(lab.points)] + [
        {"mode": "halfway", "n": n} for n, call in enumerate(changes) if call == "write"]


def wrong_after_kills(lab: Any, chosen: Sequence[dict[str, Any]]) -> list[Any]:
    found = []
    for point in chosen:
        outcome = lab.fault(**point)
        wrong = lab.rerun()
        if wrong or "error" in outcome:
            found.append((point, outcome, wrong))
    return found


def test_some_kills_are_mended_by_running_the_same_again(scenario: str, laboratory: Callable[[str], Any]) -> None:
    lab = laboratory(scenario)
    every = points(lab)
    assert wrong_after_kills(lab, random.Random(scenario).sample(every, SAMPLED)) == []


@pytest.mark.slow
def test_every_kill_is_mended_by_running_the_same_again(scenario: str, laboratory: Callable[[str], Any]) -> None:
    lab = laboratory(scenario)
    every = points(lab)
    wrong = wrong_after_kills(lab, every)
    print(f"{scenario}: {lab.points} calls, {len(every)} points, {len(wrong)} wrong")
    assert wrong == []


def test_every_kill_while_an_index_is_made_is_mended(laboratory: Callable[[str], Any]) -> None:
    """Each of the calls until the first version is there: 11 of these points used to leave an index that no rerun could
    open."""
    lab = laboratory("create")
    made = next(n for n, (call, path, *_) in enumerate(call for call in lab.calls if call[0] != "fsync")
                if path.endswith("sources.sqlite"))
    assert wrong_after_kills(lab, [point for point in points(lab) if point["n"] < made]) == []


# -- what is on the disk ----------------------------------------------------------------------


def too_early(calls: Sequence[Sequence[str]]) -> list[str]:
    """Names that were given (by a rename, or a manifest's link) to what a power failure could still take: the content
    of a file that was not synced since it was last written, or a name in a folder that was not synced since."""
    content: set[str] = set()  # written and not synced
    names: dict[str, str] = {}  # made and its folder not synced, by path
    found = []
    for name, path, second in calls:
        if name == "fsync":
            content.discard(path)
            names = {made: folder for made, folder in names.items() if folder != path}
        elif name == "open":
            content.add(path)
            names[path] = str(Path(path).parent)
        elif name == "write":
            content.add(path)
        elif name == "mkdir":
            names.setdefault(path, str(Path(path).parent))
        elif name == "unlink":
            content.discard(path)
            names.pop(path, None)
        elif name in ("rename", "link"):
            content = {second + one.removeprefix(path) if one.startswith(path) else one for one in content}
            names = {second + one.removeprefix(path) if one.startswith(path) else one: folder
                     for one, folder in names.items()}
            names[second] = str(Path(second).parent)
            found += _unsafe(second, content, names)
    return found


def _unsafe(named: str, content: set[str], names: dict[str, str]) -> list[str]:
    """What ``named`` stands for and is not on the disk: of a dataset the files that a manifest names, of a view all
    that is in it."""
    if named.endswith(".manifest"):
        needed = [str(Path(named).parents[1] / part) for part in ("data", "_deletions")]
    elif named.endswith("passages.lance") or Path(named).name.isdigit():
        needed = [named]
    else:
        return []
    within = {one for folder in needed for one in (*content, *names) if one.startswith(f"{folder}/")}
    return [f"{one} was not on the disk when {named} was named" for one in sorted(within)]


def test_what_a_version_or_a_view_names_is_on_the_disk_before_it(scenario: str,
                                                                 laboratory: Callable[[str], Any]) -> None:
    lab = laboratory(scenario)
    assert too_early(lab.calls) == []


def test_a_commit_is_on_the_disk_when_it_has_returned(laboratory: Callable[[str], Any]) -> None:
    """Each manifest, and its name: synced after the link that makes it, before the next file is written."""
    calls = laboratory("append").calls
    links = [(i, second) for i, (name, _, second) in enumerate(calls) if name == "link"
             and second.endswith(".manifest")]
    assert len(links) == 2
    for i, manifest in links:
        later = [path for name, path, _ in calls[i:] if name == "fsync"]
        assert manifest in later
        assert str(Path(manifest).parent) in later[later.index(manifest):]
        until = next((j for j in range(i, len(calls)) if calls[j][0] == "open" and "/data/" in calls[j][1]), len(calls))
        assert sum(name == "fsync" for name, *_ in calls[i:until]) >= 2


def test_the_order_is_really_looked_at() -> None:
    data, manifest = "/i/passages.lance/data/a.lance", "/i/passages.lance/_versions/1.manifest"
    write = [["open", data, ""], ["write", data, ""]]
    link = [["link", f"{manifest}#1", manifest]]
    both = [["fsync", data, ""], ["fsync", "/i/passages.lance/data", ""]]
    assert too_early([*write, *both, *link]) == []
    assert len(too_early([*write, *link, *both])) == 1
    assert len(too_early([*write, both[0], *link])) == 1
    assert len(too_early([*write, both[1], *link])) == 1
    assert len(too_early([*write, *both, ["write", data, ""], *link])) == 1


def test_without_fsync_nothing_waits_for_the_disk(worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, waits in (("0", False), ("1", True)):
        path, log = tmp_path / setting / "i", tmp_path / f"log{setting}"
        done = worker(path=str(path), act="first", mode="count", folder=str(path), log=str(log),
                      environment={"REGARD_FSYNC": setting})
        assert "result" in done
        synced = [line.split("\t")[1] for line in log.read_text().splitlines() if line.startswith("fsync")]
        assert any("passages.lance" in one for one in synced) == waits


# -- what older releases left ------------------------------------------------------------------


@pytest.mark.parametrize("left",
                         ["_transactions/.tmpa", "_transactions/0-a.txn", "_versions/18446744073709551614.manifest#1"])
def test_a_creation_that_an_older_release_left_half_way_is_begun_again(left: str, tmp_path: Path,
                                                                       hash_encoder: Any) -> None:
    file = tmp_path / "passages.lance" / left
    file.parent.mkdir(parents=True)
    file.write_text("half")
    build_index([Document("a", "a text")], tmp_path, encoder=hash_encoder(4), chunker="whole", views=[], progress=False)
    assert len(LanceStore(tmp_path)) == 1


def test_an_index_that_lost_all_its_versions_is_not_made_anew(tmp_path: Path, hash_encoder: Any) -> None:
    """Its passages are still there: that is damage, not a creation."""
    from regard.rag.errors import IndexFormatError

    build_index([Document("a", "a text")], tmp_path, encoder=hash_encoder(4), chunker="whole", views=[], progress=False)
    for manifest in (tmp_path / "passages.lance" / "_versions").iterdir():
        manifest.unlink()
    with pytest.raises(IndexFormatError):
        build_index([Document("a", "a text")], tmp_path, encoder=hash_encoder(4), chunker="whole", views=[],
                    progress=False)
    assert list((tmp_path / "passages.lance" / "data").iterdir())


def test_an_encoder_whose_pending_vectors_were_left_half_made_is_added(tmp_path: Path, hash_encoder: Any) -> None:
    build_index([Document("a", "a text")], tmp_path, encoder=None, chunker="whole", views=[], progress=False)
    half = tmp_path / "pending" / "hash_encoder.lance" / "_transactions"
    half.mkdir(parents=True)
    (half / ".tmpa").write_text("half")
    build_index(None, tmp_path, encoder=hash_encoder(4), views=[], progress=False)
    assert list(LanceStore(tmp_path).encoders) == ["hash_encoder"]
    assert not (tmp_path / "pending").exists()


def test_an_encoder_is_added_to_an_index_without_passages(tmp_path: Path, hash_encoder: Any) -> None:
    """It keeps its own chunker, which is not the default one, and its encoder says what made it."""
    build_index([Document("a", " ")], tmp_path, encoder=None, chunker="whole", views=[], progress=False)
    build_index(None, tmp_path, encoder=hash_encoder(4), views=[], progress=False)
    store = LanceStore(tmp_path)
    assert (len(store), store.encoders["hash_encoder"]["dimension"], store.manifest["chunker"]["spec"]) == (0, 4,
                                                                                                            "whole")
