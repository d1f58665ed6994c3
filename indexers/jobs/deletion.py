"""Deleting documents. Their passages are not found any more; their bytes go when a compaction removes the versions that held them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...rag.errors import ConfigError, IndexNotFound
from ...rag.files import local_path
from ..stores.lance.leases import versions
from ..stores.lance.store import LanceStore
from ..stores.lance.writer import StoreWriter, locked
from ..views import build_view, view_kinds
from .chosen import expect_models_chosen
from .compaction import compact_locked, expect_removable
from .sources import FILE, Sources, source_name


@dataclass(slots=True)
class DeletionReport:
    """What was deleted: ``documents`` with their ``passages``; ``unknown`` counts the ids that the index did not hold."""

    index: str
    documents: int = 0
    passages: int = 0
    unknown: int = 0
    purged: bool = False
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def delete_documents(
    index: str | Path, document_ids: Sequence[str] = (), *, source: str | Path | None = None, purge: bool = False, wait: float = 0.0,
) -> DeletionReport:
    """Delete documents in one commit, and bring the views up to date; with ``source``, also all that were last read from it.

    Ids that the index does not hold are counted; without any other there is no commit. Older versions still hold the text until
    ``compact`` removes them. ``purge`` does that at once, and more (see ``compact``); what it needs is checked before anything is
    deleted. Killed at any point, the same call completes it. Raises ``IndexNotFound``, ``StorageError`` beside another job,
    ``DeletionRefused`` where a tag or an open reader (after ``wait`` seconds) uses a version that a purge would remove, ``ConfigError``
    where ``document_ids`` is one text, or holds anything but texts.
    """
    path, start = local_path(index, "index"), time.perf_counter()
    document_ids = _ids(document_ids)
    with closing(LanceStore(path)) as store:  # raises before ``locked`` makes a folder
        expect_models_chosen(store)  # views are brought up to date, some by a model that the index names
    report = DeletionReport(str(index))
    with locked(path):
        writer = _writer(path)
        wanted = {*document_ids, *(_documents_of(path, writer, source) if source is not None else ())}
        held = sorted(_held(writer, sorted(wanted)))
        report.documents, report.unknown = len(held), len(wanted) - len(held)
        if purge:
            expect_removable(writer.dataset, versions(writer.dataset), wait)
        if held:
            report.passages = writer.delete(held)
        if purge:
            compact_locked(path, purge=True, wait=wait)
        elif held:
            _update_views(path)
    report.purged = purge
    report.seconds = time.perf_counter() - start
    return report


def _ids(document_ids: Any) -> list[str]:
    hint = 'delete_documents(index, ["id"])'
    if isinstance(document_ids, str | bytes) or not isinstance(document_ids, Iterable):
        raise ConfigError(f"document ids are given as a list, not as {document_ids!r:.80}", where="delete_documents", hint=hint)
    ids = list(document_ids)
    for name in ids:
        if not isinstance(name, str):
            raise ConfigError(f"a document id is a text, not {name!r:.80}", where="delete_documents", hint=hint)
    return ids


def _writer(path: Path) -> StoreWriter:
    with closing(LanceStore(path)) as store:
        return StoreWriter(path, chunker=store.manifest["chunker"])


def _update_views(path: Path) -> None:
    with closing(LanceStore(path)) as store:
        for kind in view_kinds(path):
            build_view(store, kind)


def _held(writer: StoreWriter, document_ids: Sequence[str]) -> set[str]:
    """Which of these documents the index holds."""
    wanted, found = set(document_ids), set[str]()
    for batch in writer.dataset.scanner(columns=["document_id"]).to_batches() if wanted else ():
        found.update(wanted.intersection(batch.column("document_id").to_pylist()))
    return found


def _documents_of(path: Path, writer: StoreWriter, source: str | Path) -> Iterator[str]:
    """The stored documents that were last read from ``source``. Raises ``IndexNotFound`` for one that the index does not know."""
    name = source_name(source)
    with closing(Sources(path)) as places:
        if name not in places.names():
            raise IndexNotFound(f"nothing in this index is known to come from {name}", where=str(path / FILE),
                                hint=f"name one of: {', '.join(places.names()) or 'none is known; name the documents'}")
        for batch in writer.dataset.scanner(columns=["document_id"]).to_batches():
            for document_id in dict.fromkeys(batch.column("document_id").to_pylist()):
                if places.source_of(document_id) == name:
                    yield document_id
