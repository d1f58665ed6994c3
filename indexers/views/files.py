"""How a view lies on disk: ``views/<slug>/<dataset version>/``, written beside and renamed into place.

A view's description names its files with their digests (``integrity``); one that is not whole is built anew before it is used.

A view names the commit it was built from. When the dataset has moved on, the view is extended (only new rows, and its
kind can) or rebuilt before it is used; the folder of the old version goes only after the new one is in place.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from ...rag.errors import IndexFormatError
from ...rag.files import replace_text, sync, sync_tree
from ...rag.nouns import Rows
from ..stores.integrity import Files, describe_files, read_sealed, remember, sealed
from ..stores.locks import locked, storage_errors
from ..stores.opening import open_index
from ..stores.protocols import Store
from ..stores.serving import DESCRIPTION
from ..stores.unfinished import incomplete
from .attention_job import PENDING, Recipe, recipe
from .attention_shards import link_tree
from .attention_view import AttentionView
from .bm25_view import BM25View
from .faiss_view import FaissView
from .missing import missing_view
from .spec import ATTENTION, ViewSpec
from .versions import (
    ROWS,
    SPEC,
    Version,
    damaged_view,
    is_ancestor,
    mend,
    newest_versions,
    read_description,
    read_meta,
    spec_json,
    versions_of,
)

log = logging.getLogger(__name__)

NEW = "new-"
"""How the names of folders begin that are being written, or were by a job that is dead."""


class View(Protocol):
    """A view in memory. ``rows`` int64: the passage row of each of its positions."""

    rows: Rows

    def save(self, folder: Path) -> Files:
        """Write its files; the digests of those whose digests are known, the others are read again."""


class SearchView(View, Protocol):
    """A view to search, built in one go."""

    @classmethod
    def load(cls, folder: Path, spec: ViewSpec, rows: Rows) -> Self: ...

    @classmethod
    def build(cls, store: Store, spec: ViewSpec) -> Self: ...

    def extended(self, store: Store, spec: ViewSpec) -> Self | None:
        """This view with the rows that ``store`` has gained, or None where it must be built anew."""


def build_view(store: Store, spec: ViewSpec, *, progress: bool | None = None) -> Path:
    """Bring the view up to the store's version; its folder. Does nothing when it is there already.

    ``progress``: as in ``build_index``; only an ``attention`` view takes so long that it shows any.
    """
    folder = store.path / "views" / spec.slug / str(store.version)
    made_by = recipe(spec) if spec.kind == ATTENTION else None
    if not _is_current(folder, store, spec, made_by):
        with locked(folder.parent, wait=True):  # another process may build it while this one waits
            if not _is_current(folder, store, spec, made_by) and not _carried(folder, store, spec, made_by):
                view = _built(folder.parent, store, spec, made_by, progress)
                with storage_errors(folder.parent, f"the view {spec} cannot be written"):
                    _write(view, folder, store, spec, made_by)
    return folder


def open_view(store: Store, spec: ViewSpec) -> FaissView | BM25View:
    """Open a view for searching, fresh for the store's version. Raises ``IndexNotFound`` when it was never built."""
    return load_view(fresh_view(store, spec))


def fresh_view(store: Store, spec: ViewSpec) -> Version:
    """The view of this name for the store's version, with the parameters it was last built with; extended or built anew if need be.

    A search over half a corpus is warned of.
    """
    half = incomplete(store.path)
    if half is not None:
        log.warning("%s", half)
    folder = build_view(store, built_view(store.path, spec).spec)
    meta = read_meta(folder, store)
    if meta is None:
        raise IndexFormatError(f"the view {spec} has no description", where=str(folder), hint=mend(folder))
    return Version(folder, meta)


def built_view(path: Path, spec: ViewSpec) -> Version:
    """The newest version on disk of the view of this name. Raises ``IndexNotFound`` when it was never built."""
    match = next((known for known in newest_versions(path) if known.spec.slug == spec.slug), None)
    if match is None:
        raise missing_view(path, spec)
    return match


def load_view(version: Version) -> FaissView | BM25View:
    """Raises ``IndexFormatError`` for a damaged view, and when another build took its place in the meantime."""
    version.expect_whole()
    try:
        view = _kind(version.spec).load(version.folder, version.spec, version.rows())
    except OSError as error:  # removed just now
        raise damaged_view(version.folder, str(error)) from None
    if read_description(version.folder) != version.meta:
        raise IndexFormatError(f"the view {version.spec} was built anew while it was opened", where=str(version.folder),
                               hint="open it again")
    return view


def _is_current(folder: Path, store: Store, spec: ViewSpec, made_by: Recipe | None) -> bool:
    meta = read_meta(folder, store)
    if meta is None or meta.get("commit") != store.commit or meta["spec"] != spec_json(spec) or meta.get("made_by") != made_by:
        return False
    try:
        Version(folder, meta).expect_whole()
    except IndexFormatError as error:
        log.warning("the view %s is damaged and is built anew: %s [%s]", spec, error.what, error.where)
        return False
    return True


def _kind(spec: ViewSpec) -> type[FaissView] | type[BM25View]:
    return FaissView if spec.dense else BM25View


def _built(home: Path, store: Store, spec: ViewSpec, made_by: Recipe | None, progress: bool | None) -> View:
    if made_by is not None:
        return AttentionView.build(store, spec, made_by, progress)
    return _extended(home, store, spec) or _kind(spec).build(store, spec)


def _extended(home: Path, store: Store, spec: ViewSpec) -> FaissView | BM25View | None:
    """The newest older view of this history, extended; None when there is none, it has other settings, or rows of it are gone."""
    for version in versions_of(home, store):
        if version.meta["spec"] != spec_json(spec) or not is_ancestor(version, store):
            continue
        try:
            version.expect_whole()
            rows = version.rows()
            if len(rows) > len(store.rows) or not np.array_equal(store.rows[:len(rows)], rows):
                return None
            log.info("extending view %s from version %s to %d", spec, version.folder.name, store.version)
            return _kind(spec).load(version.folder, spec, rows).extended(store, spec)
        except IndexFormatError:
            return None  # a damaged view is built anew
    return None


def carry_view(store: Store, version: Version) -> bool:
    """Make a view of the same passages, in the same order, the view of the store's own version; whether it is one then.

    The files stay as they are, and so does what the description says of them. Needs no model.
    """
    folder = version.folder.parent / str(store.version)
    with locked(folder.parent, wait=True):
        return _carry(version, folder, store)


def _carried(folder: Path, store: Store, spec: ViewSpec, made_by: Recipe | None) -> bool:
    """Whether an older view of this very recipe has become the store's, since a compaction only moved its passages to other files."""
    alike = (v for v in versions_of(folder.parent, store) if v.meta["spec"] == spec_json(spec) and v.meta.get("made_by") == made_by)
    return any(_carry(version, folder, store) for version in alike if version.folder != folder)


def _carry(version: Version, folder: Path, store: Store) -> bool:
    if version.meta.get("commit") == store.commit:
        return version.folder == folder
    if not store.unchanged_since(version.meta.get("commit", "")):
        return False
    try:
        if not np.array_equal(version.rows(), store.rows):
            return False
    except IndexFormatError:  # damaged: it is built anew
        return False

    def link(temporary: Path) -> dict[str, Any]:
        link_tree(version.folder, temporary)
        (temporary / DESCRIPTION).unlink()  # a link to the old one
        return {**version.meta, "version": store.version, "commit": store.commit}

    with storage_errors(folder.parent, f"the view {version.spec} cannot be written"):
        _put_in_place(folder, store, link)
    return True


def _write(view: View, folder: Path, store: Store, spec: ViewSpec, made_by: Recipe | None) -> None:
    def save(temporary: Path) -> dict[str, Any]:
        known = view.save(temporary)
        np.save(temporary / ROWS, store.rows)
        meta: dict[str, Any] = {"spec": spec_json(spec), "dataset": store.manifest["id"], "version": store.version, "commit": store.commit,
                                "passages": len(store.rows), "build": uuid.uuid4().hex, "files": describe_files(temporary, known)}
        return meta if made_by is None else {**meta, "made_by": made_by}

    remember(folder, _put_in_place(folder, store, save)["files"])


def _put_in_place(folder: Path, store: Store, save: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """``folder`` with what ``save`` writes into the folder it is given, and the description that it returns; whole or not at all."""
    home = folder.parent
    temporary = Path(tempfile.mkdtemp(prefix=NEW, dir=home))
    try:
        meta = save(temporary)
        (temporary / DESCRIPTION).write_text(json.dumps(sealed(meta, DESCRIPTION)))
        sync_tree(temporary)
        said = sealed({"spec": meta["spec"]}, SPEC)
        if read_sealed(home / SPEC) != said:
            replace_text(home / SPEC, json.dumps(said))
        if folder.exists():
            folder.rename(home / f"{temporary.name}-replaced")
        temporary.rename(folder)
        sync(home)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sweep(home, store)
    return meta


def _sweep(home: Path, store: Store) -> None:
    """Remove what the view in place makes superfluous."""
    for old in home.iterdir():
        unfinished = old.name.startswith((NEW, PENDING))  # new-: a killed job left it; pending-: it is in the view now
        if unfinished or (old.name.isdigit() and int(old.name) < store.version):
            shutil.rmtree(old, ignore_errors=True)
    later = [version for version in versions_of(home, store) if version.meta["version"] > store.version]
    if later:
        newest = open_index(store.uri)  # built after this store was opened, or of a history that a restore has ended
        for version in later:
            if not is_ancestor(version, newest):
                shutil.rmtree(version.folder, ignore_errors=True)
