"""How a view lies on disk: ``views/<slug>/<dataset version>/``, written beside and renamed into place.

A view names the commit it was built from. When the dataset has moved on, the view is extended (only new rows, and its
kind can) or rebuilt before it is used; the folder of the old version goes only after the new one is in place.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from ...rag.documents import Rows
from ...rag.errors import IndexFormatError
from ..store import LanceStore
from ..unfinished import incomplete
from ..writer import locked, storage_errors
from .attention_job import PENDING, Recipe, recipe
from .attention_view import AttentionView
from .bm25_view import BM25View
from .faiss_view import FaissView
from .missing import missing_view
from .spec import ATTENTION, ViewSpec
from .versions import DESCRIPTION, Version, is_ancestor, newest_versions, read_json, read_meta, spec_json, versions_of

log = logging.getLogger(__name__)


class View(Protocol):
    """A view in memory. ``rows`` int64: the passage row of each of its positions."""

    rows: Rows

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path, spec: ViewSpec, rows: Rows) -> Self: ...


class SearchView(View, Protocol):
    """A view to search, built in one go."""

    @classmethod
    def build(cls, store: LanceStore, spec: ViewSpec) -> Self: ...

    def extended(self, store: LanceStore, spec: ViewSpec) -> Self | None:
        """This view with the rows that ``store`` has gained, or None where it must be built anew."""


def build_view(store: LanceStore, spec: ViewSpec, *, progress: bool | None = None) -> Path:
    """Bring the view up to the store's version; its folder. Does nothing when it is there already.

    ``progress``: as in ``build_index``; only an ``attention`` view takes so long that it shows any.
    """
    folder = store.path / "views" / spec.slug / str(store.version)
    made_by = recipe(spec) if spec.kind == ATTENTION else None
    if not _is_current(folder, store, spec, made_by):
        with locked(folder.parent, wait=True):
            if not _is_current(folder, store, spec, made_by):  # else another process built it while this one waited
                view = _built(folder.parent, store, spec, made_by, progress)
                with storage_errors(folder.parent, f"the view {spec} cannot be written"):
                    _write(view, folder, store, spec, made_by)
    return folder


def open_view(store: LanceStore, spec: ViewSpec) -> FaissView | BM25View:
    """Open a view for searching, fresh for the store's version. Raises ``IndexNotFound`` when it was never built."""
    return load_view(fresh_view(store, spec))


def fresh_view(store: LanceStore, spec: ViewSpec) -> Version:
    """The view of this name for the store's version, with the parameters it was last built with; extended or built anew if need be.

    A search over half a corpus is warned of.
    """
    half = incomplete(store.path)
    if half is not None:
        log.warning("%s", half)
    folder = build_view(store, built_view(store.path, spec).spec)
    meta = read_meta(folder, store)
    if meta is None:
        raise IndexFormatError(f"the view {spec} has no description", where=str(folder), hint="delete the folder; it is built anew")
    return Version(folder, meta)


def built_view(path: Path, spec: ViewSpec) -> Version:
    """The newest version on disk of the view of this name. Raises ``IndexNotFound`` when it was never built."""
    match = next((known for known in newest_versions(path) if known.spec.slug == spec.slug), None)
    if match is None:
        raise missing_view(path, spec)
    return match


def load_view(version: Version) -> FaissView | BM25View:
    """Raises ``IndexFormatError`` for a damaged view, and when another build took its place in the meantime."""
    rows = np.load(version.folder / "rows.npy", mmap_mode="r")
    view = _kind(version.spec).load(version.folder, version.spec, rows)
    if read_json(version.folder / DESCRIPTION) != version.meta:
        raise IndexFormatError(f"the view {version.spec} was built anew while it was opened", where=str(version.folder),
                               hint="open it again")
    return view


def _is_current(folder: Path, store: LanceStore, spec: ViewSpec, made_by: Recipe | None) -> bool:
    meta = read_meta(folder, store)
    if meta is None or meta.get("commit") != store.commit or meta["spec"] != spec_json(spec) or meta.get("made_by") != made_by:
        return False
    if made_by is None:
        return True
    try:  # what is damaged of a view that took hours is mended, and not left to be deleted
        AttentionView.load(folder, spec, np.load(folder / "rows.npy"))
        return True
    except (OSError, IndexFormatError):
        return False


def _kind(spec: ViewSpec) -> type[FaissView] | type[BM25View]:
    return FaissView if spec.dense else BM25View


def _built(home: Path, store: LanceStore, spec: ViewSpec, made_by: Recipe | None, progress: bool | None) -> View:
    if made_by is not None:
        return AttentionView.build(store, spec, made_by, progress)
    return _extended(home, store, spec) or _kind(spec).build(store, spec)


def _extended(home: Path, store: LanceStore, spec: ViewSpec) -> FaissView | BM25View | None:
    """The newest older view of this history, extended; None when there is none, it has other settings, or rows of it are gone."""
    for version in versions_of(home, store):
        if version.meta["spec"] != spec_json(spec) or not is_ancestor(version, store):
            continue
        rows = np.load(version.folder / "rows.npy")
        if len(rows) > len(store.rows) or not np.array_equal(store.rows[:len(rows)], rows):
            return None
        log.info("extending view %s from version %s to %d", spec, version.folder.name, store.version)
        try:
            return _kind(spec).load(version.folder, spec, rows).extended(store, spec)
        except (OSError, RuntimeError, IndexFormatError):
            return None  # a damaged view is built anew
    return None


def _write(view: View, folder: Path, store: LanceStore, spec: ViewSpec, made_by: Recipe | None) -> None:
    home = folder.parent
    temporary = Path(tempfile.mkdtemp(prefix="new-", dir=home))
    try:
        view.save(temporary)
        np.save(temporary / "rows.npy", store.rows)
        meta: dict[str, Any] = {"spec": spec_json(spec), "dataset": store.manifest["id"], "version": store.version,
                                "commit": store.commit, "passages": len(store.rows), "build": uuid.uuid4().hex}
        if made_by is not None:
            meta["made_by"] = made_by
        (temporary / DESCRIPTION).write_text(json.dumps(meta))
        if folder.exists():
            folder.rename(home / f"{temporary.name}-replaced")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sweep(home, store)


def _sweep(home: Path, store: LanceStore) -> None:
    """Remove what the view in place makes superfluous."""
    for old in home.iterdir():
        unfinished = old.name.startswith(("new-", PENDING))  # new-: a killed job left it; pending-: it is in the view now
        if unfinished or (old.name.isdigit() and int(old.name) < store.version):
            shutil.rmtree(old, ignore_errors=True)
    later = [version for version in versions_of(home, store) if version.meta["version"] > store.version]
    if later:
        newest = LanceStore(store.path)  # built after this store was opened, or of a history that a restore has ended
        for version in later:
            if not is_ancestor(version, newest):
                shutil.rmtree(version.folder, ignore_errors=True)
