"""How a view lies on disk: ``views/<view>/<dataset version>/``, written beside and renamed into place.

A view's description names its files with their digests (``integrity``); one that is not whole is built anew before it
is used.

A view names the commit it was built from. When the dataset has moved on, the view is extended (only new rows, and its
kind can) or rebuilt before it is used; the folder of the old version goes only after the new one is in place.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...rag.errors import ConfigError, IndexFormatError, IndexNotFound
from ...rag.files import link_tree, replace_text, sync, sync_tree
from ...rag.parts import plain
from ..stores.integrity import describe_files, read_sealed, remember, sealed
from ..stores.locks import locked, storage_errors
from ..stores.opening import open_index
from ..stores.protocols import Store
from ..stores.serving import DESCRIPTION
from ..stores.unfinished import incomplete
from .kind import PENDING, SearchView, View, ViewKind, named_settings, parse_view
from .missing import missing_view
from .versions import (
    ROWS,
    SPEC,
    Version,
    damaged_view,
    home_of,
    is_ancestor,
    mend,
    newest_versions,
    read_description,
    read_meta,
    versions_of,
)

log = logging.getLogger(__name__)

NEW = "new-"
"""How the names of folders begin that are being written, or were by a job that is dead."""


def build_view(store: Store, kind: ViewKind, *, progress: bool | None = None) -> Path:
    """Bring the view up to the store's version; its folder. Does nothing when it is there already.

    ``progress``: as in ``build_index``; only what takes long shows any.
    """
    folder = home_of(store.path, kind) / str(store.version)
    made_by = kind.identity()
    if not _is_current(folder, store, kind, made_by):
        kind.expect_material(store)
        with locked(folder.parent, wait=True):  # another process may build it while this one waits
            if not _is_current(folder, store, kind, made_by) and not _carried(folder, store, kind, made_by):
                view = _extended(folder.parent, store, kind, made_by) or kind.build(store, folder.parent, progress)
                with storage_errors(folder.parent, f"the view {kind} cannot be written"):
                    _write(view, folder, store, kind, made_by)
    return folder


def open_view(store: Store, wanted: str | ViewKind, encoder: str = "") -> SearchView:
    """Open a view for searching, fresh for the store's version; which one says :func:`built_view`."""
    view: SearchView = load_view(fresh_view(store, wanted, encoder))
    return view


def fresh_view(store: Store, wanted: str | ViewKind, encoder: str = "") -> Version:
    """The view that :func:`built_view` finds, for the store's version; extended or built anew if need be.

    A search over half a corpus is warned of.
    """
    half = incomplete(store.path)
    if half is not None:
        log.warning("%s", half)
    kind = built_view(store.path, wanted, encoder).kind
    folder = build_view(store, kind)
    meta = read_meta(folder, store)
    if meta is None:
        raise IndexFormatError(f"the view {kind} has no description", where=str(folder), hint=mend(folder))
    return Version(folder, meta)


def built_view(path: Path, wanted: str | ViewKind, encoder: str = "") -> Version:
    """The newest version on disk of the view that ``wanted`` means, with ``encoder`` where that names none.

    That is the view with these very settings; else the only one with those that are named: a text's, or the ones that
    differ from the defaults. Raises ``IndexNotFound`` when it was never built, ``ConfigError`` where several are meant;
    both say what is there.
    """
    kind = parse_view(wanted, encoder)
    named = {*kind.changed(), *(named_settings(kind, wanted) if isinstance(wanted, str) else ())}
    alike = [v for v in newest_versions(path) if type(v.kind) is type(kind)
             and v.kind.folders()[0] == kind.folders()[0]]
    meant = [v for v in alike if v.kind == kind] or [v for v in alike if _agree(v.kind, kind, named)]
    if len(meant) == 1:
        return meant[0]
    there = ", ".join(str(version.kind) for version in meant or alike)
    if meant:
        raise ConfigError(f"the view {kind} may be one of {len(meant)} of this index: {there}", where=str(path),
                          hint="name the settings by which they differ")
    if alike:
        raise IndexNotFound(f"the index's view is {there}, not {kind}", where=str(path),
                            hint=f"build it so: regard index --index {path} --view {kind}; or leave the settings out")
    raise missing_view(path, kind)


def _agree(one: ViewKind, other: ViewKind, names: Iterable[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)


def load_view(version: Version) -> Any:
    """The view in memory, as its kind loads it.

    Raises ``IndexFormatError`` for a damaged view, and when another build took its place in the meantime.
    """
    version.expect_whole()
    try:
        view = version.load()
    except (OSError, ValueError, EOFError) as error:  # removed just now, or not what its kind reads
        raise damaged_view(version.folder, str(error)) from None
    if read_description(version.folder) != version.meta:
        raise IndexFormatError(f"the view {version.kind} was built anew while it was opened", where=str(version.folder),
                               hint="open it again")
    return view


def _is_current(folder: Path, store: Store, kind: ViewKind, made_by: Any) -> bool:
    meta = read_meta(folder, store)
    if meta is None or meta.get("commit") != store.commit or not _is_made_so(Version(folder, meta), kind, made_by):
        return False
    try:
        Version(folder, meta).expect_whole()
    except IndexFormatError as error:
        log.warning("the view %s is damaged and is built anew: %s [%s]", kind, error.what, error.where)
        return False
    return True


def _is_made_so(version: Version, kind: ViewKind, made_by: Any) -> bool:
    """Whether ``version`` holds for its passages what a view of ``kind`` would hold that is built now."""
    return version.kind == kind and version.meta.get("made_by") == made_by


def _extended(home: Path, store: Store, kind: ViewKind, made_by: Any) -> View | None:
    """The newest older view of this history, extended; None when there is none, it has other settings, rows of it are
    gone, or its kind extends none."""
    if type(kind).extend is ViewKind.extend:
        return None
    for version in versions_of(home, store):
        if not _is_made_so(version, kind, made_by) or not is_ancestor(version, store):
            continue
        try:
            version.expect_whole()
            rows = version.rows()
            if len(rows) > len(store.rows) or not np.array_equal(store.rows[:len(rows)], rows):
                return None
            log.info("extending view %s from version %s to %d", kind, version.folder.name, store.version)
            return kind.extend(version.load(), store)
        except (IndexFormatError, OSError, ValueError, EOFError):
            return None  # a damaged view is built anew
    return None


def carry_view(store: Store, version: Version) -> bool:
    """Make a view of the same passages, in the same order, the view of the store's own version; whether it is one then.

    The files stay as they are, and so does what the description says of them. Needs no model.
    """
    folder = version.folder.parent / str(store.version)
    with locked(folder.parent, wait=True):
        return _carry(version, folder, store)


def _carried(folder: Path, store: Store, kind: ViewKind, made_by: Any) -> bool:
    """Whether an older view that is made so has become the store's, since a compaction only moved its passages to other
    files."""
    alike = (version for version in versions_of(folder.parent, store) if _is_made_so(version, kind, made_by))
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

    with storage_errors(folder.parent, f"the view {version.kind} cannot be written"):
        _put_in_place(folder, store, link)
    return True


def _write(view: View, folder: Path, store: Store, kind: ViewKind, made_by: Any) -> None:
    def save(temporary: Path) -> dict[str, Any]:
        known = view.save(temporary) or {}
        np.save(temporary / ROWS, store.rows)
        meta: dict[str, Any] = {
            "spec": {"part": kind.part_name(), **plain(kind.settings())}, "dataset": store.manifest["id"],
            "version": store.version, "commit": store.commit,
            "passages": len(store.rows), "build": uuid.uuid4().hex, "files": describe_files(temporary, known)}
        return meta if made_by is None else {**meta, "made_by": made_by}

    remember(folder, _put_in_place(folder, store, save)["files"])


def _put_in_place(folder: Path, store: Store, save: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """``folder`` with what ``save`` writes into the folder it is given, and the description that it returns; whole or
    not at all."""
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
