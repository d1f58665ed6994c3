"""Which views lie on disk, and what their versions say of themselves: ``views/<view>/<dataset version>/view.json``.

``views/<view>/spec.json`` says again what the view is, so that one whose description is damaged can be built anew as it
was. A view is found by what it says it is; two settings of one kind have two folders (``ViewKind.folders``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...rag.errors import IndexFormatError
from ...rag.nouns import Rows
from ..stores.integrity import Reading, expect_whole, read_json, read_sealed
from ..stores.protocols import Store
from ..stores.serving import DESCRIPTION
from .arrays import opening
from .kind import ViewKind, stored_kind

SPEC = "spec.json"
ROWS = "rows.npy"
_KEYS = {"spec", "dataset", "version", "commit", "passages", "build", "files"}


@dataclass(frozen=True)
class Version:
    """A view's folder and its description: ``spec``, ``dataset``, ``version``, ``commit``, ``passages``, ``build``,
    ``files`` (see ``integrity``), for some kinds ``made_by``; only ``spec`` and ``version`` where the description is
    ``damaged``.

    ``commit`` says which of several histories' ``version`` it is (see ``store``).
    ``build`` is another each time: an approximate index that was extended is not the one that is built in one go.
    """

    folder: Path
    meta: dict[str, Any]

    @cached_property
    def kind(self) -> ViewKind:
        kind = stored_kind(self.meta["spec"])
        assert kind is not None  # else it is no version
        return kind

    @property
    def damaged(self) -> bool:
        return "files" not in self.meta

    def expect_whole(self, reading: Reading = "once") -> None:
        """Raise ``IndexFormatError`` for a view that is not as it was written (see ``integrity``)."""
        if self.damaged:
            raise IndexFormatError(f"the description of the view {self.kind} is damaged",
                                   where=str(self.folder / DESCRIPTION),
                                   hint=mend(self.folder))
        expect_whole(self.folder, self.meta["files"], mend(self.folder), reading=reading)

    def rows(self) -> Rows:
        """The view's passage rows, int64, memory-mapped, compared with their digest. Raises ``IndexFormatError``."""
        expect_whole(self.folder, self.meta["files"], mend(self.folder), ROWS, reading="always")
        try:
            with opening:
                rows: Rows = np.load(self.folder / ROWS, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise damaged_view(self.folder, str(error)) from None
        if rows.dtype != np.int64 or rows.shape != (self.meta["passages"],):
            raise damaged_view(self.folder,
                               f"{ROWS} has {rows.dtype} {rows.shape} for {self.meta['passages']} passages")
        return rows

    def load(self) -> Any:
        """The view in memory, as its kind loads it."""
        rows = self.rows()
        with opening:
            return self.kind.load(self.folder, rows)


def damaged_view(folder: Path, why: str) -> IndexFormatError:
    """The error for the view in ``folder``, which cannot be used."""
    return IndexFormatError(f"the view cannot be read: {why}", where=str(folder), hint=mend(folder))


def mend(folder: Path) -> str:
    """What to do about a damaged view in ``folder``."""
    return f"regard verify {folder.parents[2]} --repair"


def newest_versions(path: Path) -> list[Version]:
    """The newest version of each view that was ever built for the index at ``path``."""
    # looked at twice: a builder may remove the old version between our listing it and our reading it
    newest = [_newest(home) or _newest(home) for home in sorted((path / "views").glob("*/"))]
    return [version for version in newest if version]


def view_kinds(path: Path) -> list[ViewKind]:
    """The views that were ever built for the index at ``path``."""
    return [version.kind for version in newest_versions(path)]


def home_of(path: Path, kind: ViewKind) -> Path:
    """The folder of the versions of this very view: where it is, or where it will be built."""
    usual, other = (path / "views" / name for name in kind.folders())
    there = {home: _newest(home) for home in (usual, other) if home.is_dir()}
    found = next((home for home, version in there.items() if version and version.kind == kind), None)
    free = there.get(usual) is None  # older releases had one folder for all settings of a kind
    return found or (usual if free and kind.usual() else other)


def versions_of(home: Path, store: Store) -> list[Version]:
    """The versions of one view by folders of ``store``'s very dataset, newest first, of whatever history."""
    folders = sorted((f for f in home.glob("*/") if f.name.isdigit()), key=lambda folder: int(folder.name),
                     reverse=True)
    return [Version(folder, meta) for folder in folders if (meta := read_meta(folder, store))]


def is_ancestor(version: Version, store: Store) -> bool:
    """Whether the view was built from a version in ``store``'s own history."""
    return store.descends_from(version.meta["version"], version.meta.get("commit", ""))


def read_meta(folder: Path, store: Store) -> dict[str, Any] | None:
    """The description of the view in ``folder``, when it belongs to ``store``'s very dataset."""
    meta = read_description(folder)
    return meta if meta is not None and meta["dataset"] == store.manifest["id"] else None


def read_description(folder: Path) -> dict[str, Any] | None:
    """What the view in ``folder`` says of itself; None where that is damaged, or another view's."""
    meta = read_sealed(folder / DESCRIPTION)
    if meta is None or not meta.keys() >= _KEYS or not isinstance(meta["files"], dict):
        return None
    return meta if _is_of(folder.parent, meta["spec"]) else None


def _newest(home: Path) -> Version | None:
    folders = sorted((f for f in home.iterdir() if f.name.isdigit()), key=lambda folder: int(folder.name), reverse=True)
    found = [Version(folder, meta) for folder in folders if (meta := read_description(folder))]
    if found:
        return max(found, key=lambda version: int(version.meta["version"]))
    # damaged: what says best what the view was
    said = [read_sealed(home / SPEC),
            *(read_json(file) for file in (home / SPEC, *(folder / DESCRIPTION for folder in folders)))]
    spec = next((meta["spec"] for meta in said if meta and _is_of(home, meta.get("spec"))), None)
    return Version(folders[0], {"spec": spec, "version": int(folders[0].name)}) if spec and folders else None


def _is_of(home: Path, spec: Any) -> bool:
    kind = stored_kind(spec)
    return kind is not None and home.name in kind.folders()
