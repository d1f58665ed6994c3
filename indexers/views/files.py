"""How a view lies on disk: ``views/<slug>/<dataset version>/``, written beside and renamed into place.

A view names the dataset version it was built from. When the dataset has moved on, the view is extended (only new rows, and its
kind can) or rebuilt before it is used; the folder of the old version goes only after the new one is in place.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from ...rag.documents import Rows
from ...rag.errors import IndexFormatError, IndexNotFound
from ..store import LanceStore
from ..writer import locked, storage_errors
from .bm25_view import BM25View
from .faiss_view import FaissView
from .spec import ViewSpec

log = logging.getLogger(__name__)


class View(Protocol):
    """A view in memory. ``rows`` int64: the passage row of each of its positions."""

    rows: Rows

    @classmethod
    def build(cls, store: LanceStore, spec: ViewSpec) -> Self: ...

    def extended(self, store: LanceStore, spec: ViewSpec) -> Self | None:
        """This view with the rows that ``store`` has gained, or None where it must be built anew."""

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path, spec: ViewSpec, rows: Rows) -> Self: ...


def build_view(store: LanceStore, spec: ViewSpec) -> Path:
    """Bring the view up to the store's version; its folder. Does nothing when it is there already."""
    folder = store.path / "views" / spec.slug / str(store.version)
    if not _is_current(folder, store, spec):
        with locked(folder.parent, wait=True):
            if not _is_current(folder, store, spec):  # else another process built it while this one waited
                view = _extended(folder.parent, store, spec) or _kind(spec).build(store, spec)
                with storage_errors(folder.parent, f"the view {spec} cannot be written"):
                    _write(view, folder, store, spec)
    return folder


def open_view(store: LanceStore, spec: ViewSpec) -> FaissView | BM25View:
    """Open a view for searching, fresh for the store's version. Raises ``IndexNotFound`` when it was never built."""
    built = view_specs(store.path)
    match = next((known for known in built if known.slug == spec.slug), None)
    if match is None:
        raise IndexNotFound(f"the index has no view {spec}", where=str(store.path),
                            hint=f"add it: regard index --index {store.path} --view {spec.kind}; it has: "
                                 f"{', '.join(map(str, built)) or 'none'}")
    folder = build_view(store, match)
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    return _kind(match).load(folder, match, rows)


def view_specs(path: Path) -> list[ViewSpec]:
    """The views that were ever built for the index at ``path``."""
    # looked at twice: a builder may remove the old version between our listing it and our reading it
    newest = [_newest(home) or _newest(home) for home in sorted((path / "views").glob("*/"))]
    return [ViewSpec(spec["kind"], spec["encoder"], spec["parameters"]) for spec in newest if spec]


def _newest(home: Path) -> dict[str, Any] | None:
    """The settings of the newest version of a view."""
    metas = [meta for folder in home.iterdir() if folder.name.isdigit() and (meta := _read_json(folder / "view.json"))]
    return max(metas, key=lambda meta: meta["version"])["spec"] if metas else None


def _is_current(folder: Path, store: LanceStore, spec: ViewSpec) -> bool:
    meta = _read_meta(folder, store)
    return meta is not None and meta["spec"] == _spec_json(spec)


def _kind(spec: ViewSpec) -> type[FaissView] | type[BM25View]:
    return FaissView if spec.dense else BM25View


def _spec_json(spec: ViewSpec) -> dict[str, Any]:
    return {"kind": spec.kind, "encoder": spec.encoder, "parameters": spec.parameters}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        return data
    except (OSError, ValueError):
        return None


def _read_meta(folder: Path, store: LanceStore) -> dict[str, Any] | None:
    """The description of the view in ``folder``, when it belongs to this very dataset."""
    meta = _read_json(folder / "view.json")
    return meta if meta is not None and meta.get("dataset") == store.manifest["id"] else None


def _extended(home: Path, store: LanceStore, spec: ViewSpec) -> FaissView | BM25View | None:
    """The newest older view, extended; None when there is none, it has other settings, or rows of it are gone."""
    versions = sorted((int(f.name) for f in home.glob("*/") if f.name.isdigit()), reverse=True)
    for version in versions:
        folder = home / str(version)
        meta = _read_meta(folder, store)
        if meta is None or meta["spec"] != _spec_json(spec):
            continue
        rows = np.load(folder / "rows.npy")
        if len(rows) > len(store.rows) or not np.array_equal(store.rows[:len(rows)], rows):
            return None
        log.info("extending view %s from version %d to %d", spec, version, store.version)
        try:
            return _kind(spec).load(folder, spec, rows).extended(store, spec)
        except (OSError, RuntimeError, IndexFormatError):
            return None  # a damaged view is built anew
    return None


def _write(view: FaissView | BM25View, folder: Path, store: LanceStore, spec: ViewSpec) -> None:
    home = folder.parent
    temporary = Path(tempfile.mkdtemp(prefix="new-", dir=home))
    try:
        view.save(temporary)
        np.save(temporary / "rows.npy", store.rows)
        meta = {"spec": _spec_json(spec), "dataset": store.manifest["id"], "version": store.version, "passages": len(store.rows)}
        (temporary / "view.json").write_text(json.dumps(meta))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in home.iterdir():
        if old.name.startswith("new-") or (old.name.isdigit() and int(old.name) < store.version):  # new-: a killed job left it
            shutil.rmtree(old, ignore_errors=True)
