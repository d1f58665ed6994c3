"""The indexing job: read -> chunk -> deduplicate -> encode -> commit, a stream in bounded memory.

Each commit is one transaction of whole documents with their vectors, so a job that is killed leaves a prefix of its work and a
rerun goes on after it: a document whose hash is stored is not chunked again, a passage whose hash is stored is not encoded again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..rag.documents import Document, Passage
from ..rag.encoding import Encoder, Vectors
from ..rag.errors import ConfigError, DimensionMismatch, EmptyCorpusError, IndexNotFound, StageError
from ..rag.progress import Advance, progress_bar
from .chunkers import Chunker
from .chunkers import chunker as make_chunker
from .columns import encode_existing, index_encoders
from .corpus import Skip, estimate_size, read_corpus
from .seen import SeenDocuments
from .store import DATASET, LanceStore
from .views import ViewSpec, build_view, parse_view, view_specs
from .views.faiss_view import import_faiss
from .writer import Shard, StoreWriter, content_hash, document_hash, locked

DEFAULT_ENCODER = "minilm"
DEFAULT_CHUNKER = "sentences:200,overlap=40"
_SHARD_CHARACTERS = 16_000_000
_SKIPS_KEPT = 100
_ENCODED_AT_ONCE = 256  # passages between two steps of the progress bar
_SURROGATE = re.compile("[\ud800-\udfff]")

Sources = str | Path | Sequence[str | Path] | Iterable[Document]


@dataclass(slots=True)
class IndexReport:
    """What a job did. Times in seconds; ``skips`` holds the first hundred of ``skipped``."""

    index: str
    documents: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    passages: int = 0
    encoded: int = 0
    reused: int = 0
    truncated: int = 0
    total_passages: int = 0
    views: list[str] = field(default_factory=list)
    seconds: float = 0.0
    encode_seconds: float = 0.0
    skips: list[Skip] = field(default_factory=list)

    def skip(self, skip: Skip) -> None:
        self.skipped += 1
        if len(self.skips) < _SKIPS_KEPT:
            self.skips.append(skip)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_index(
    sources: Sources | None, index: str | Path, *, format: str = "auto", encoder: str | Encoder | None = "auto", chunker: str = "auto",
    views: Sequence[str] | None = None, text: bool = True, shard_passages: int = 2048, progress: bool | None = None,
    on_skip: Callable[[Skip], None] | None = None,
) -> IndexReport:
    """Index documents into the folder ``index``; run it again to add, to update, or to finish a job that was killed.

    ``sources`` are files, folders or ``python:`` (see ``corpus``), or documents; None only adds encoders and views to an index
    that is there. ``encoder`` is a model name, an ``Encoder``, None for no further one, or ``"auto"``: the index's own, ``minilm`` for a
    new index. ``chunker`` likewise (``"auto"``: sentences packed to 200 tokens). ``views`` default to ``faiss:flat`` and ``bm25``, as
    far as the index can hold them; ``text`` False stores no text, and so has no BM25. ``attention:smollm2`` holds the passages' keys and
    values by that model, for ``AttentionReranker(cache=index)``; what it will take is said on standard error before it starts, unless
    ``progress`` is False. A bad document is a counted skip; nothing committed is ever lost. Raises ``EmptyCorpusError``,
    ``FingerprintMismatch``, ``StorageError``, ``MissingDependency``.
    """
    path, report, start = Path(index), IndexReport(str(index)), time.perf_counter()

    def skip(item: Skip) -> None:
        report.skip(item)
        if on_skip:
            on_skip(item)

    existing = LanceStore(path) if (path / DATASET).exists() else None
    splitter = make_chunker(_chunker_spec(chunker, existing))
    encoders = index_encoders(encoder, existing, DEFAULT_ENCODER)
    specs = _views(views, existing, path, list(encoders), existing.has_text if existing else text)
    if any(spec.dense for spec in specs):
        import_faiss()  # a missing package is reported before the work, not after it
    documents, total = (_nothing_new(existing, path), None) if sources is None else _documents(sources, format, skip)
    if sources is not None:
        documents = _not_empty(documents, report)
    try:
        for one in encoders.values():
            one.open()  # before the index is made: a model that cannot be loaded leaves nothing behind
        with locked(path):
            writer = StoreWriter(path, chunker={"spec": splitter.spec, "fingerprint": splitter.fingerprint()}, text=text,
                                 encoders={name: one.fingerprint() for name, one in encoders.items()})
            for name, one in encoders.items():
                encode_existing(writer, name, one, progress=progress)
            with progress_bar("indexing", total, "documents", enabled=progress) as advance:
                _Job(writer, splitter, encoders, report, skip, shard_passages).run(documents, advance)
            store = LanceStore(path)
            for spec in specs:
                build_view(store, spec, progress=progress)
    finally:
        for one in encoders.values():
            one.close()
    report.total_passages = len(store)
    report.views = [str(spec) for spec in specs]
    report.seconds = time.perf_counter() - start
    return report


def delete_documents(index: str | Path, document_ids: Sequence[str]) -> int:
    """Remove documents and bring the views up to date; how many passages went."""
    path = Path(index)
    store = LanceStore(path)
    with locked(path):
        writer = StoreWriter(path, chunker=store.manifest["chunker"])
        gone = writer.delete(document_ids)
        store = LanceStore(path)
        for spec in view_specs(path):
            build_view(store, spec)
    return gone


class _Job:
    """The stream itself: what is collected for the next commit, and what was seen."""

    def __init__(
        self, writer: StoreWriter, chunker: Chunker, encoders: dict[str, Encoder], report: IndexReport, skip: Callable[[Skip], None],
        shard_passages: int,
    ) -> None:
        self.writer = writer
        self.chunker = chunker
        self.encoders = encoders
        self.report = report
        self.skip = skip
        self.shard_passages = shard_passages
        self.stored = _stored_documents(writer)
        self.seen = SeenDocuments()
        self.next_row = writer.next_row()
        self._clear()

    def _clear(self) -> None:
        self.shard = Shard([], [], {}, [])
        self.characters = 0
        self.waiting = 0  # documents that were read and are not yet done

    def run(self, documents: Iterable[Document], advance: Advance) -> None:
        """``advance`` is told of documents as they are done: at once when there is nothing to encode, else as encoding goes on."""
        self.advance = advance
        for document in documents:
            self._take(_clean(document))
            self.waiting += 1
            if len(self.shard.passages) >= self.shard_passages or self.characters >= _SHARD_CHARACTERS:
                self._flush()
            elif not self.shard.passages:
                self._done(self.waiting)
        self._flush()

    def _done(self, documents: int) -> None:
        self.waiting -= documents
        self.advance(documents, f"{self.report.encoded:,} passages encoded, {self.report.skipped:,} skipped")

    def _take(self, document: Document) -> None:
        """Chunk one document into the shard, unless it is stored as it is or came before."""
        self.report.documents += 1
        digest = document_hash(document)
        before = self.seen.get(document.id)
        if before is not None:
            same = "the same text" if before == digest else "another text; the first one is kept"
            self.skip(Skip("corpus", document.id, f"duplicate document id with {same}"))
            return
        self.seen.add([(document.id, digest)])
        stored = self.stored.get(document.id)
        if stored == digest:
            self.report.unchanged += 1
            return
        passages = self.chunker.chunk(document)
        if stored is not None:
            self.shard.replaced.append(document.id)
            self.report.updated += 1
        elif passages:
            self.report.added += 1
        if not passages:
            self.skip(Skip("corpus", document.id, "the document has no text"))
        self.shard.passages += passages
        self.shard.hashes += [digest] * len(passages)
        self.characters += sum(len(p.text) for p in passages)

    def _flush(self) -> None:
        shard = self.shard
        if shard.passages:
            start = time.perf_counter()
            each = self.waiting // max(1, len(self.encoders))
            shard.vectors = {name: self._encode(name, one, shard, each) for name, one in self.encoders.items()}
            self.report.encode_seconds += time.perf_counter() - start
            self.writer.commit(shard, self.next_row)
            self.next_row += len(shard.passages)
            self.report.passages += len(shard.passages)
        elif shard.replaced:
            self.writer.delete(shard.replaced)
        self._done(self.waiting)
        self._clear()

    def _encode(self, name: str, one: Encoder, shard: Shard, documents: int) -> Vectors:
        """Vectors of the shard's passages; each distinct text is encoded once, and not at all where the store has its vector.

        Encoding all of them counts as the work for ``documents`` documents.
        """
        hashes = [content_hash(p) for p in shard.passages]
        known = self.writer.stored_vectors(shard.replaced, name) if shard.replaced else {}
        fresh: dict[bytes, Passage] = {}
        for digest, passage in zip(hashes, shard.passages, strict=True):
            if digest not in known:
                fresh.setdefault(digest, passage)
        texts = [p.full_text for p in fresh.values()]
        self.report.reused += len(hashes) - len(texts)
        self.report.truncated += one.truncated(texts)
        encoded = np.empty((len(texts), one.dimension), dtype=np.float32)
        for start in range(0, len(texts), _ENCODED_AT_ONCE):
            stop = min(start + _ENCODED_AT_ONCE, len(texts))
            encoded[start:stop] = _checked_vectors(one, texts[start:stop])
            self.report.encoded += stop - start
            self._done(documents * stop // len(texts) - documents * start // len(texts))
        where = {digest: i for i, digest in enumerate(fresh)}
        vectors = np.empty((len(hashes), one.dimension), dtype=np.float32)
        for i, digest in enumerate(hashes):
            vectors[i] = encoded[where[digest]] if digest in where else known[digest]
        return vectors


def _checked_vectors(one: Encoder, texts: Sequence[str]) -> Vectors:
    """Encode, and refuse vectors of another shape or with NaN before they reach the store."""
    vectors = one.encode_passages(texts)
    if vectors.shape != (len(texts), one.dimension):
        raise DimensionMismatch(f"the encoder gave {vectors.shape} for {len(texts)} passages of {one.dimension} components",
                                where=f"encoder {one.name!r}", hint="its dimension and its output must agree")
    if not np.isfinite(vectors).all():
        raise StageError("a vector is not finite", where=f"encoder {one.name!r}", hint="the model gave NaN: try another dtype or device")
    return vectors


def _stored_documents(writer: StoreWriter) -> SeenDocuments:
    stored = SeenDocuments()
    for batch in writer.dataset.scanner(columns=["document_id", "document_hash"]).to_batches():
        stored.add(zip(batch.column("document_id").to_pylist(), batch.column("document_hash").to_pylist(), strict=True))
    return stored


def _documents(sources: Sources, format: str, skip: Callable[[Skip], None]) -> tuple[Iterator[Document], int | None]:
    """The documents of all sources as one stream, and how many there will be where that is cheap to know."""
    if isinstance(sources, str | Path):
        sources = [sources]
    if isinstance(sources, Sequence) and all(isinstance(s, str | Path) for s in sources):
        names = [s for s in sources if isinstance(s, str | Path)]
        sizes = [estimate_size(s, format) for s in names]
        known = [size for size in sizes if size is not None]
        stream = chain.from_iterable(read_corpus(s, format=format, on_skip=skip) for s in names)
        return stream, sum(known) if len(known) == len(sizes) else None
    return (d for d in sources if isinstance(d, Document)), len(sources) if isinstance(sources, Sequence) else None


def _nothing_new(existing: LanceStore | None, path: Path) -> Iterator[Document]:
    """No documents, for an index that is there."""
    if existing is None:
        raise IndexNotFound(f"there is no index at {path} to add to, and no source to make one from", where=str(path),
                            hint=f"name what to index: regard index SOURCE --index {path}")
    return iter(())


def _not_empty(documents: Iterator[Document], report: IndexReport) -> Iterator[Document]:
    """The same stream; raises before anything is written when it holds nothing."""
    first = next(documents, None)
    if first is None:
        reasons = "; ".join(f"{s.location}: {s.reason}" for s in report.skips[:3])
        raise EmptyCorpusError("the corpus holds no document" + (f" ({report.skipped} skipped: {reasons})" if report.skipped else ""),
                               where=report.index, hint="check the path and --format")
    return chain([first], documents)


def _clean(document: Document) -> Document:
    """A lone surrogate cannot be stored as UTF-8: it becomes U+FFFD, one character for one, so that spans stay right."""
    if document.text.isascii() and document.title.isascii() and document.id.isascii():
        return document
    id, text, title = (_SURROGATE.sub("\ufffd", part) for part in (document.id, document.text, document.title))
    return replace(document, id=id, text=text, title=title)


def _chunker_spec(chunker: str, existing: LanceStore | None) -> str:
    if chunker != "auto":
        return chunker
    return str(existing.manifest["chunker"]["spec"]) if existing else DEFAULT_CHUNKER


def _views(views: Sequence[str] | None, existing: LanceStore | None, path: Path, encoders: list[str], text: bool) -> list[ViewSpec]:
    """The views to build: those asked for, and those that the index has already."""
    default_encoder = encoders[-1] if encoders else ""
    wanted = views if views is not None else (["faiss:flat"] if encoders else []) + (["bm25"] if text else [])
    specs = {spec.slug: spec for spec in (view_specs(path) if existing else [])}
    specs |= {spec.slug: spec for spec in (parse_view(view, default_encoder) for view in wanted)}
    textual = [str(spec) for spec in specs.values() if not spec.dense]
    if textual and not text:
        raise ConfigError(f"{', '.join(textual)} needs the passages' text, and this index stores none", where=str(path),
                          hint="leave it out, or store the text")
    return list(specs.values())
