"""The indexing job: read -> chunk -> deduplicate -> encode -> commit, a stream in bounded memory.

Each commit is one transaction of whole documents with their vectors, so a job that is killed leaves a prefix of its work and a
rerun goes on after it: a document whose hash is stored is not chunked again, a passage whose hash is stored is not encoded again.
A job that breaks off (Ctrl-C, an error) first commits what it has encoded.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...rag.dag.scope import Scope
from ...rag.errors import ConfigError, EmptyCorpusError, IndexNotFound, Interrupted, MissingDependency, RegardError
from ...rag.files import local_path
from ...rag.models.encoding import Encoder, OpenEncoder, Vectors
from ...rag.nouns import Document, Passage
from ...rag.parts import part
from ...rag.progress import Advance, progress_bar
from ..chunkers import Chunker
from ..corpus import Limits, Skip, detect_format, estimate_size, objects, parsing, read_corpus
from ..corpus.limits import as_limits
from ..corpus.skips import Unreadable
from ..encoders.stored import described
from ..stores.lance.store import LanceStore, content_hash, exists
from ..stores.lance.writer import Shard, StoreWriter, document_hash, joined, locked
from ..stores.unfinished import UnfinishedJob, unfinished
from ..views import ViewKind, build_view, home_of, parse_view, view_kinds
from .chosen import choose_named, expect_models_chosen
from .columns import checked_vectors, encode_existing, index_encoders
from .pace import COMMIT_SECONDS, ENCODED_AT_ONCE, Pace
from .prune import Doomed, expect_share, vanished
from .prune import prune as prune_documents
from .seen import SeenDocuments
from .sources import LeftOut, Origin, Sources, source_name

DEFAULT_ENCODER = "minilm"
DEFAULT_CHUNKER = "sentences:200,overlap=40"
_SHARD_CHARACTERS = 16_000_000
_BLOCK_CHARACTERS = _SHARD_CHARACTERS // 8
_LISTED = 100
_SURROGATE = re.compile("[\ud800-\udfff]")
_OBJECTS = "documents in Python"
"""The name of a corpus of Python objects among the sources of a job; not one that ``Sources`` notes."""

Corpus = str | Path | Sequence[str | Path] | Iterable[Any]
Sourced = tuple[Document, Origin | None]
"""A document and what it was read from, None for a corpus of Python objects."""


@dataclass(slots=True)
class IndexReport:
    """What a job did. Times in seconds; ``skips`` holds the first hundred of ``skipped``.

    ``vanished`` counts the documents in the index that were last read from one of this job's sources and are no longer there (a file that
    is there and could not be read has not vanished); ``vanished_ids`` holds the first hundred. They stay in the index, but for the
    ``pruned`` ones. ``replaced_from_other_source``: documents with the id of one that another source, which is there still, gave before.
    """

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
    vanished: int = 0
    vanished_ids: list[str] = field(default_factory=list)
    pruned: int = 0
    replaced_from_other_source: int = 0

    def skip(self, skip: Skip) -> None:
        self.skipped += 1
        if len(self.skips) < _LISTED:
            self.skips.append(skip)

    def vanish(self, document_id: str) -> None:
        self.vanished += 1
        if len(self.vanished_ids) < _LISTED:
            self.vanished_ids.append(document_id)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_index(
    sources: Corpus | None, index: str | Path, *, format: str = "auto", encoder: str | Encoder | None = "auto",
    chunker: str | Chunker = "auto", views: Sequence[str | ViewKind] | None = None, text: bool = True, shard_passages: int = 2048,
    commit_seconds: float = COMMIT_SECONDS, limits: Limits | Sequence[str] = (), prune: bool = False, prune_limit: float = 0.5,
    progress: bool | None = None, on_skip: Callable[[Skip], None] | None = None,
) -> IndexReport:
    """Index documents into the folder ``index``; run it again to add, to update, or to finish a job that was killed.

    ``sources`` are files, folders or ``python:`` (see ``corpus``); or an iterable of documents: ``Document``, mappings, named tuples,
    LangChain documents, objects with an id and a text, a pandas DataFrame, a Hugging Face ``Dataset``, an ir_datasets dataset (see
    ``corpus.objects``; further fields become metadata). None only adds encoders and views to an index that is there. ``encoder`` is a
    model name, an ``Encoder``, None for no further one, or ``"auto"``: the index's own, ``minilm`` for a new index. ``chunker`` likewise
    is a text, a ``Chunker``, or ``"auto"``: sentences packed to 200 tokens for a new index.
    ``views`` (view kinds, or their texts) default to ``flat`` and ``bm25``, as far as the index can hold them; those that it has are
    brought up to date, too. ``text`` False stores no text, and so has no BM25. ``attention:smollm2`` holds the passages' keys and
    values by that model, for ``AttentionReranker(cache=index)``; what it will take is said on standard error before it starts, unless
    ``progress`` is False.

    ``prune`` deletes the documents that have vanished from these sources (``IndexReport.vanished``), in one commit at the end; see
    ``sources`` for the ids of files. Where more than ``prune_limit`` of a source's documents have vanished (its disk may not be mounted)
    none is deleted, and ``DeletionRefused`` is raised when all else is done; 1 allows any number.

    Work is committed, in whole documents, after ``shard_passages`` passages or ``commit_seconds`` of work, whichever comes first. A bad
    document, or one over one of ``limits`` (``Limits``, or settings as ``"record_bytes=64M"``), is a counted skip; nothing committed is
    ever lost. Ctrl-C commits what is encoded and raises ``Interrupted``, a ``KeyboardInterrupt``. Raises ``CorpusError`` (for an
    iterable: where an item is no document), ``EmptyCorpusError``, ``FingerprintMismatch``, ``StorageError``, ``MissingDependency``.
    """
    path, report, start, limits = local_path(index, "index"), IndexReport(str(index)), time.perf_counter(), as_limits(limits)
    _expect_settings(views, shard_passages, commit_seconds)
    asked = None if chunker == "auto" else part(Chunker, chunker)
    expect_share(prune_limit)
    left_out = LeftOut()

    def skip(item: Skip) -> None:
        report.skip(item)
        left_out.add(item)
        if on_skip:
            on_skip(item)

    existing = LanceStore(path) if exists(path) else None
    choose_named(encoder, asked, views)
    if existing is not None:
        expect_models_chosen(existing)
    splitter = asked or _chunker_of(existing)
    chunked_by = {"spec": splitter.spec, "fingerprint": splitter.recipe()}
    encoders = index_encoders(encoder, existing, DEFAULT_ENCODER)
    kinds = _views(views, existing, path, list(encoders), existing.has_text if existing is not None else text)
    for kind in kinds:
        kind.expect_installed()  # a missing package is reported before the work, not after it
    names = _names(sources)
    documents, total = (_nothing_new(existing, path), None) if sources is None else _documents(sources, names, format, limits, skip)
    if sources is not None:
        documents = _not_empty(documents, report, existing)
    again = UnfinishedJob(_command(sources, names, path, format, encoder, chunker, views, text, limits, prune), _sources(sources, names),
                          [home_of(path, kind).name for kind in kinds])
    try:
        with Scope() as scope:
            # opened before the index is made: a model that cannot be loaded leaves nothing behind
            opened = {name: scope.open(one) for name, one in encoders.items()}
            kept = {name: described(one) for name, one in encoders.items()}
            with locked(path), unfinished(path, again):
                writer = StoreWriter(path, chunker=chunked_by, text=text, encoders=kept)
                for name, one in opened.items():
                    encode_existing(writer, name, kept[name], one, progress=progress, commit_seconds=commit_seconds)
                with progress_bar("indexing", total, "documents", enabled=progress) as advance, closing(Sources(path)) as places:
                    job = _Job(writer, splitter, opened, report, skip, places, shard_passages, commit_seconds, limits)
                    job.run(documents, advance)
                    doomed = job.doomed([_origin(name, format) for name in names], left_out)
                    refused = prune_documents(writer, places, doomed, prune_limit) if prune else None
                    report.pruned = sum(map(len, doomed.values())) if prune and not refused else 0
                store = LanceStore(path)
                for kind in kinds:
                    build_view(store, kind, progress=progress)
    except KeyboardInterrupt:
        raise Interrupted(f"{_held(path)}; the same command goes on from there") from None
    finally:
        parsing.close()
    report.total_passages = len(store)
    report.views = [str(kind) for kind in kinds]
    report.seconds = time.perf_counter() - start
    if refused is not None:
        raise refused
    return report


def _expect_settings(views: Any, shard_passages: Any, commit_seconds: Any) -> None:
    """Raise ``ConfigError`` for what only a caller from Python can get wrong."""
    if views is not None and (not isinstance(views, list | tuple) or not all(isinstance(view, str | ViewKind) for view in views)):
        raise ConfigError(f"views are a list of names, not {views!r:.80}", where="build_index", hint='views=["flat", "bm25"]')
    if not isinstance(shard_passages, int) or shard_passages < 1:
        raise ConfigError(f"shard_passages is {shard_passages!r:.80}", where="build_index", hint="a whole number, at least 1")
    if not isinstance(commit_seconds, int | float) or not commit_seconds > 0:
        raise ConfigError(f"commit_seconds is {commit_seconds!r:.80}", where="build_index", hint="a number of seconds above 0")


class _Job:
    """The stream itself: what is collected for the next commit, and what was seen.

    Documents gather in ``block`` until there are enough passages to encode at once; encoded blocks wait for the next commit.
    """

    def __init__(
        self, writer: StoreWriter, chunker: Chunker, encoders: dict[str, OpenEncoder], report: IndexReport, skip: Callable[[Skip], None],
        places: Sources, shard_passages: int, commit_seconds: float, limits: Limits,
    ) -> None:
        self.writer = writer
        self.chunker = chunker
        self.encoders = encoders
        self.report = report
        self.skip = skip
        self.places = places
        self.shard_passages = shard_passages
        self.limits = limits
        self.pace = Pace(commit_seconds)
        self.stored = _stored_documents(writer)
        self.seen = SeenDocuments()
        self.next_row = writer.next_row()
        self.block = Shard()
        self.encoded: list[Shard] = []
        self.known: dict[str, dict[bytes, Vectors]] = {}  # by encoder and content hash, until the next commit
        self.waiting = 0  # documents that were read and are not yet done

    def run(self, documents: Iterable[Sourced], advance: Advance) -> None:
        """``advance`` is told of documents as they are done: at once when there is nothing to encode, else as encoding goes on."""
        self.advance = advance
        try:
            for document, origin in documents:
                self._take(_clean(document), origin)
                self._keep_pace()
            self._encode_block()
            self._commit()
        except BaseException as error:
            self._commit()
            if isinstance(error, RegardError):
                error.add_note(f"{_held(self.writer.path)}; the same command goes on from there")
            raise

    def _done(self, documents: int) -> None:
        self.waiting -= documents
        self.advance(documents, f"{self.report.encoded:,} passages encoded, {self.report.skipped:,} skipped")

    def _take(self, document: Document, origin: Origin | None) -> None:
        """Chunk one document into the block, unless it is stored as it is or came before."""
        self.report.documents += 1
        self.waiting += 1
        path = document.id
        known_as = self.places.id_of(path, origin)
        if known_as != path:
            document = replace(document, id=known_as)
        digest = document_hash(document)
        before = self.seen.get(document.id)
        if before is not None:
            same = "the same text" if before == digest else "another text; the first one is kept"
            self.skip(Skip("corpus", document.id, f"duplicate document id with {same}"))
            return
        self.seen.add([(document.id, digest)])
        stored = self.stored.get(document.id)
        if stored not in (None, digest) and self.places.is_elsewhere(document.id, origin, path):
            self.report.replaced_from_other_source += 1
        self.places.note(document.id, origin, path)
        if stored == digest:
            self.report.unchanged += 1
            return
        if not (self.encoded or self.block):
            self.pace.restart()
        try:
            passages = self.chunker.chunk(document, self.limits)
        except Unreadable as error:
            self.skip(Skip("corpus", document.id, str(error)))
            return
        if stored is not None:
            self.block.replaced.append(document.id)
            self.report.updated += 1
        elif passages:
            self.report.added += 1
        if not passages:
            self.skip(Skip("corpus", document.id, "the document has no text"))
        self.block.add(passages, digest)
        self.block.characters += len(passages) * self.limits.repeated_characters(document)

    def _keep_pace(self) -> None:
        """Encode when there is enough for a block; commit when another would be too much for a shard, or it is time.

        The commits do not decide what is encoded together: a vector's last digit may hang on that.
        """
        size = min(self.pace.block, self.shard_passages)
        if len(self.block) >= size or self.block.characters >= _BLOCK_CHARACTERS:
            self._encode_block()
            size = min(self.pace.block, self.shard_passages)
        elif not self.block:
            self._done(self.waiting)
        passages, characters = sum(map(len, self.encoded)), sum(shard.characters for shard in self.encoded)
        if passages + size > self.shard_passages or characters + _BLOCK_CHARACTERS > _SHARD_CHARACTERS:
            self._commit()
        elif self.pace.due:
            if not self.encoded:
                self._encode_block()
            self._commit()

    def _encode_block(self) -> None:
        block, self.block = self.block, Shard()
        if block:
            start, before, ways = self.pace.now(), self.report.encoded, len(self.encoders)
            block.vectors = {name: self._encode(name, one, block, self.waiting // ways) for name, one in self.encoders.items()}
            seconds, texts = self.pace.now() - start, self.report.encoded - before
            self.report.encode_seconds += seconds
            self.pace.encoded(texts // ways if ways else len(block), seconds)
            self.encoded.append(block)
        self._done(self.waiting)

    def _commit(self) -> None:
        """Commit the encoded blocks. They are let go of first: whatever happens, nothing is written twice."""
        shard, self.encoded, self.known = joined(self.encoded), [], {}
        self.places.commit()  # first: who has an id must be known once its document is there
        if len(shard):
            self.writer.commit(shard, self.next_row)
            self.next_row += len(shard)
            self.report.passages += len(shard)
        elif shard.replaced:
            self.writer.delete(shard.replaced)
        self.pace.restart()

    def _encode(self, name: str, one: OpenEncoder, block: Shard, documents: int) -> Vectors:
        """Vectors of the block's passages; each distinct text is encoded once, and not at all where the store has its vector.

        Encoding all of them counts as the work for ``documents`` documents.
        """
        hashes = [content_hash(p) for p in block.passages]
        known = self.known.setdefault(name, {})
        if block.replaced:
            known.update(self.writer.stored_vectors(block.replaced, name))
        fresh: dict[bytes, Passage] = {}
        for digest, passage in zip(hashes, block.passages, strict=True):
            if digest not in known:
                fresh.setdefault(digest, passage)
        digests, texts = list(fresh), [p.full_text for p in fresh.values()]
        self.report.reused += len(hashes) - len(texts)
        self.report.truncated += one.truncated(texts)
        for start, stop in pairwise(_cuts(len(texts))):
            known.update(zip(digests[start:stop], checked_vectors(one, texts[start:stop]), strict=True))
            self.report.encoded += stop - start
            self._done(documents * stop // len(texts) - documents * start // len(texts))
        return np.stack([known[digest] for digest in hashes]) if hashes else np.empty((0, one.dimension), dtype=np.float32)

    def doomed(self, origins: Sequence[Origin], left_out: LeftOut) -> Doomed:
        """Report what has vanished; what of it may be pruned, since no record that could not be read may be it."""
        found: Doomed = {}
        for document_id, origin in vanished(self.writer.dataset, origins, self.seen, self.places, left_out):
            self.report.vanish(document_id)
            if not left_out.leaves_doubt(origin):
                found.setdefault(origin.source, []).append(document_id)
        return found


def _cuts(n: int) -> list[int]:
    """Where ``n`` texts are cut into even pieces of about ``ENCODED_AT_ONCE``: from 0 to ``n``."""
    pieces = max(1, round(n / ENCODED_AT_ONCE)) if n else 0
    return [n * i // max(1, pieces) for i in range(pieces + 1)]


def _stored_documents(writer: StoreWriter) -> SeenDocuments:
    stored = SeenDocuments()
    for batch in writer.dataset.scanner(columns=["document_id", "document_hash"]).to_batches():
        stored.add(zip(batch.column("document_id").to_pylist(), batch.column("document_hash").to_pylist(), strict=True))
    return stored


def _names(sources: Corpus | None) -> list[str | Path]:
    """The files, folders and ``python:`` that ``sources`` names; none when it holds the documents itself."""
    if isinstance(sources, str | Path):
        return [sources]
    if isinstance(sources, Sequence) and all(isinstance(s, str | Path) for s in sources):
        return list(sources)
    return []


def _documents(
    sources: Corpus, names: list[str | Path], format: str, limits: Limits, skip: Callable[[Skip], None],
) -> tuple[Iterator[Sourced], int | None]:
    """The documents of all sources as one stream, and how many there will be where that is cheap to know."""
    if not names:
        return ((document, None) for document in objects.read(sources, limits, skip)), objects.estimate(sources)
    sizes = [estimate_size(s, format) for s in names]
    known = [size for size in sizes if size is not None]
    stream = chain.from_iterable(_read(s, format, limits, skip) for s in names)
    return stream, sum(known) if len(known) == len(sizes) else None


def _read(source: str | Path, format: str, limits: Limits, skip: Callable[[Skip], None]) -> Iterator[Sourced]:
    origin = _origin(source, format)
    return ((document, origin) for document in read_corpus(source, format=format, limits=limits, on_skip=skip))


def _origin(source: str | Path, format: str) -> Origin:
    return Origin(source_name(source), files=(detect_format(source) if format == "auto" else format) == "folder")


def _nothing_new(existing: LanceStore | None, path: Path) -> Iterator[Sourced]:
    """No documents, for an index that is there."""
    if existing is None:
        raise IndexNotFound(f"there is no index at {path} to add to, and no source to make one from", where=str(path),
                            hint=f"name what to index: regard index SOURCE --index {path}")
    return iter(())


def _not_empty(documents: Iterator[Sourced], report: IndexReport, existing: LanceStore | None) -> Iterator[Sourced]:
    """The same stream; raises before anything is written when it holds nothing."""
    first = next(documents, None)
    if first is None:
        reasons = "; ".join(f"{s.location}: {s.reason}" for s in report.skips[:3])
        skipped = f" ({report.skipped} skipped: {reasons})" if report.skipped else ""
        kept = "; what the index holds stays" if existing and len(existing) else ""
        raise EmptyCorpusError(f"the corpus holds no document{skipped}{kept}", where=report.index, hint="check the path and --format")
    return chain([first], documents)


def _clean(document: Document) -> Document:
    """A lone surrogate cannot be stored as UTF-8: it becomes U+FFFD, one character for one, so that spans stay right."""
    if document.text.isascii() and document.title.isascii() and document.id.isascii():
        return document
    id, text, title = (_SURROGATE.sub("\ufffd", part) for part in (document.id, document.text, document.title))
    return replace(document, id=id, text=text, title=title)


def _held(path: Path) -> str:
    """What is committed now."""
    if not exists(path):
        return "nothing is committed"
    writer = LanceStore(path)
    return f"{len(writer):,} passages of {writer.documents():,} documents are committed to {path}"


def _sources(sources: Corpus | None, names: list[str | Path]) -> list[str]:
    """How a note on the job calls its sources."""
    return [] if sources is None else [source_name(name) for name in names] or [_OBJECTS]


def _command(
    sources: Corpus | None, names: list[str | Path], path: Path, format: str, encoder: str | Encoder | None,
    chunker: str | Chunker, views: Sequence[str | ViewKind] | None, text: bool, limits: Limits, prune: bool,
) -> str:
    """How to run this job again."""
    if (sources is not None and not names) or not isinstance(encoder, str | None) or not isinstance(chunker, str):
        return f"call build_index for {str(path)!r} again with the same arguments"
    options = [("--format", format, "auto"), ("--encoder", encoder or "none", "auto"), ("--chunker", chunker, "auto")]
    given = [word for option, value, default in options if value != default for word in (option, value)]
    given += [word for view in views or () for word in ("--view", str(view))]
    given += [word for limit in limits.settings() for word in ("--limit", limit)]
    return shlex.join(["regard", "index", *map(str, names), "--index", str(path), *given, *([] if text else ["--no-text"]),
                       *(["--prune"] if prune else [])])


def _chunker_of(existing: LanceStore | None) -> Chunker:
    """The one that the index was made with. Raises ``ConfigError`` where none here is of that name."""
    if existing is None:
        return part(Chunker, DEFAULT_CHUNKER)
    spec = existing.manifest["chunker"]["spec"]
    try:
        return part(Chunker, spec)
    except (ConfigError, MissingDependency) as error:
        raise ConfigError(f"this index was made with the chunker {spec!r}, which cannot be made here: {error.what}",
                          where=str(existing.path), hint="import what registers it, or index into a new folder") from error


def _views(
    views: Sequence[str | ViewKind] | None, existing: LanceStore | None, path: Path, encoders: list[str], text: bool,
) -> list[ViewKind]:
    """The views to build: those that the index has already, and those asked for; by default one of flat and BM25 each, whatever its
    settings."""
    there = view_kinds(path) if existing is not None else []
    default_encoder = encoders[-1] if encoders else ""
    usual = (["flat"] if encoders else []) + (["bm25"] if text else [])
    wanted = [parse_view(view, default_encoder) for view in (usual if views is None else views)]
    if views is None:
        wanted = [kind for kind in wanted if kind.folders()[0] not in {other.folders()[0] for other in there}]
    kinds = list(dict.fromkeys([*there, *wanted]))
    textual = [str(kind) for kind in kinds if kind.needs_text]
    if textual and not text:
        raise ConfigError(f"{', '.join(textual)} needs the passages' text, and this index stores none", where=str(path),
                          hint="leave it out, or store the text")
    return kinds
