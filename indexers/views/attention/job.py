"""The job behind a view of cached passages: keys and values of every passage, computed once, shard by shard.

A job that is killed goes on after its last committed shard. What an older version of the view holds is taken over, as
are the shards of an unfinished job; what the index no longer holds is dropped.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import count
from json import dumps
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ....rag.errors import BudgetError, IndexFormatError
from ....rag.lm import LanguageModel, LanguageModelInfo, describe
from ....rag.lm.passages import LEAST_PASSAGE_TOKENS, Block, Format, suffix_position
from ....rag.lm.prefill import tiled
from ....rag.markup import visible
from ....rag.models import resolve, weights_hash
from ....rag.nouns import Rows
from ....rag.progress import progress_bar
from ...stores.changes import content_hash
from ...stores.integrity import expect_whole
from ...stores.locks import storage_errors
from ...stores.protocols import Store
from ..arrays import opening
from ..kind import PENDING, ViewKind
from ..versions import Version, damaged_view, mend, versions_of
from .footprint import Footprint
from .layout import Half, Layout, tensor_of
from .shards import Ids, Shard, Table, clear_unfinished, expect_whole_shard, shards_in, write_shard

log = logging.getLogger(__name__)

FORMAT = 3
"""Raise it when what a view holds for a passage changes."""
SHARDS = "shards"
PREFIX = "prefix.npz"

SHARD_BYTES = 256_000_000
"""Keys and values that are computed at once, in float32."""
_SAMPLE = 2000
_READ_AT_ONCE = 256

Recipe = dict[str, Any]


def recipe(lm: str, layers: int, bits: int) -> Recipe:
    """All that decides what a view holds for a passage: two views of one recipe hold the same.

    Raises what ``describe`` raises when the model is not there.
    """
    info = describe(lm)
    layout = Layout(layers, info.kv_heads, info.head_dim, bits, half_of(info))
    return {"format": FORMAT, "weights": weights_hash(resolve(lm)), "prompt": asdict(Format()), **asdict(layout)}


def half_of(info: LanguageModelInfo) -> Half:
    """What 16 bits are for this model: bfloat16 where its checkpoint is that, wherever it runs."""
    return "bfloat16" if info.dtype == "bfloat16" else "float16"


def layout_of(made_by: Recipe) -> Layout:
    return Layout(made_by["layers"], made_by["kv_heads"], made_by["head_dim"], made_by["bits"], made_by["half"])


@dataclass(frozen=True, slots=True)
class Prefix:
    """What stands before all passages: ``ids`` int32 [tokens], and its keys and values, float32 [slots, KV heads,
    tokens, d]."""

    ids: Ids
    numbers: NDArray[np.float32]

    @classmethod
    def computed(cls, lm: LanguageModel, layout: Layout) -> Self:
        ids = Format().prefix(lm)
        prefill = lm.prefill(ids, mask="block", positions="shared", last=layout.layers - 1)
        layout.expect_shape(prefill)
        numbers = np.stack([tensor_of(prefill, slot).float().cpu().numpy() for slot in range(layout.slots)])
        return cls(np.array(ids, dtype=np.int32), numbers)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises ``IndexFormatError``."""
        try:
            with opening, np.load(folder / PREFIX, allow_pickle=False) as file:
                return cls(file["ids"], file["numbers"])
        # numpy's, zipfile's
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, NotImplementedError) as error:
            raise damaged_view(folder, f"its prompt prefix: {error}") from None

    def save(self, folder: Path) -> None:
        np.savez(folder / PREFIX, ids=self.ids, numbers=self.numbers)


def bring_up_to_date(
    store: Store, kind: ViewKind, home: Path, made_by: Recipe, progress: bool | None,
) -> tuple[Prefix, list[Shard]]:
    """The shards that hold all passages of ``store`` and no others; those that were not there are left, committed, in a
    pending folder.

    Says what they will take (on standard error, unless ``progress`` is False) before it starts. Raises ``StorageError``
    then when the disk has not the room, or later when it refuses a write, and what the model raises.
    """
    identity = dumps([made_by, store.manifest["id"]], sort_keys=True).encode()
    pending = home / (PENDING + blake2b(identity, digest_size=8).hexdigest())
    with storage_errors(home, f"the view {kind} cannot be written"):
        pending.mkdir(parents=True, exist_ok=True)
        clear_unfinished(pending)
    job = _Job(store, kind, layout_of(made_by), pending)
    finished = next((version for version in versions_of(home, store) if version.meta.get("made_by") == made_by), None)
    prefix = job.take_over(finished)
    missing = np.setdiff1d(store.rows, job.rows)
    if prefix is None or len(missing):
        lm = LanguageModel.acquire(job.lm, attention=True)
        try:
            prefix = prefix or Prefix.computed(lm, job.layout)
            if len(missing):
                job.compute(lm, missing, progress)
        finally:
            lm.release()
    job.save_footprint(Footprint(str(kind), len(job.rows), job.nbytes, 0, 0, True, job.layout))
    return prefix, job.shards


@dataclass(frozen=True, slots=True)
class _Stored:
    """A passage on its way into a shard: its row, the two halves of its content hash, its block."""

    row: int
    content: list[int]
    block: Block


def _key(row: int, content: list[int]) -> tuple[int, ...]:
    return (row, *content)


class _Job:
    """``shards`` are those so far."""

    def __init__(self, store: Store, kind: ViewKind, layout: Layout, pending: Path) -> None:
        self.store = store
        self.kind = kind
        self.lm = kind.model or ""
        self.layout = layout
        self.pending = pending
        self.shards: list[Shard] = []
        self._numbers = count()

    @property
    def rows(self) -> Rows:
        return np.concatenate([shard.rows for shard in self.shards]) if self.shards else np.zeros(0, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in self.shards)

    # -- what is there -------------------------------------------------------------

    def take_over(self, finished: Version | None) -> Prefix | None:
        """Take what is whole in the ``finished`` version's folder, if there is one, and in the pending one; gives the
        former's prefix."""
        found = self._readable(self.pending)
        prefix = None
        if finished is not None:
            found |= self._readable(finished.folder / SHARDS)
            try:
                expect_whole(finished.folder, finished.meta["files"], mend(finished.folder), PREFIX)
                prefix = Prefix.read(finished.folder)
            except IndexFormatError as error:
                log.warning("%s", error)
        self._numbers = count(max((int(name) for name in found), default=-1) + 1)
        shards = [shard for _, shard in sorted(found.items())]
        for shard, wanted in zip(shards, self._wanted(shards), strict=True):
            self._take(shard, wanted)
        return prefix

    def _wanted(self, shards: Sequence[Shard]) -> list[NDArray[np.bool_]]:
        """Which passages of each shard the store still has, by row and content, and no shard before it."""
        if not shards:
            return []
        held = set(map(_key, self.store.rows.tolist(), self.store.contents().tolist()))
        wanted = np.zeros(sum(len(shard.rows) for shard in shards), dtype=np.bool_)
        keys = (_key(row, content) for shard in shards
                for row, content in zip(shard.rows.tolist(), shard.contents.tolist(), strict=True))
        for i, key in enumerate(keys):
            wanted[i] = key in held
            held.discard(key)
        ends = np.cumsum([len(shard.rows) for shard in shards])
        return np.split(wanted, ends[:-1])

    def _readable(self, folder: Path) -> dict[str, Shard]:
        """The shards in ``folder`` by name, without damaged ones: what those held is computed anew."""
        found = {}
        for shard in shards_in(folder):
            try:
                expect_whole_shard(shard)
                found[shard.name] = Shard.read(shard, self.layout)
            except IndexFormatError as error:
                log.warning("%s", error)
                if folder == self.pending:
                    shutil.rmtree(shard)
        return found

    def _take(self, shard: Shard, wanted: NDArray[np.bool_]) -> None:
        """``shard``, or a copy of the passages that are ``wanted`` of it: what was deleted from an index must not stay
        in its views."""
        if wanted.all():
            self.shards.append(shard)
            return
        kept = np.flatnonzero(wanted).tolist()
        if kept:
            ids = np.concatenate([np.array(shard.ids(p), dtype=np.int32) for p in kept])
            self._commit(shard.table[wanted], ids, [shard.data(p) for p in kept])
        if shard.folder.parent == self.pending:
            shutil.rmtree(shard.folder)

    # -- what is not ---------------------------------------------------------------

    def compute(self, lm: LanguageModel, missing: Rows, progress: bool | None) -> None:
        """Commit shards of the ``missing`` passages, by row."""
        footprint = self._footprint(lm, missing)
        if progress is not False:
            _announce(str(footprint))
        self.save_footprint(footprint)
        footprint.expect_room(self.pending.parent)
        tokens = cut = 0
        with progress_bar(f"keys and values by {self.lm}", len(missing), "passages", enabled=progress) as advance:
            for some in self._batches(lm, missing):
                blocks = [stored.block for stored in some]
                self._compute_shard(lm, some, blocks)
                tokens += sum(len(block.ids) for block in blocks)
                cut += sum(block.cut for block in blocks)
                advance(len(some), f"{tokens:,} tokens, {cut:,} cut")

    def _compute_shard(self, lm: LanguageModel, some: Sequence[_Stored], blocks: Sequence[Block]) -> None:
        prefix = Format().prefix(lm)
        spans = tiled(len(prefix), [len(block.ids) for block in blocks])
        ids = [token for block in blocks for token in block.ids]
        prefill = lm.prefill(prefix + ids, blocks=spans, mask="block", positions="shared", last=self.layout.layers - 1)
        table = np.array([(s.row, len(s.block.ids), len(s.block.scored), s.block.cut, *s.content) for s in some],
                         dtype=np.int64)
        self._commit(table, np.array(ids, dtype=np.int32), [self.layout.packed(prefill, spans)])

    def _commit(self, table: Table, ids: Ids, ranges: Sequence[Any]) -> None:
        with storage_errors(self.pending, "the disk refused a shard; everything committed before is safe"):
            folder = write_shard(self.pending, f"{next(self._numbers):08d}", table, ids, ranges)
            self.shards.append(Shard.read(folder, self.layout))

    def _batches(self, lm: LanguageModel, missing: Rows) -> Iterator[list[_Stored]]:
        """As many passages as are computed at once."""
        most = SHARD_BYTES // self.layout.working_bytes
        some: list[_Stored] = []
        tokens = 0
        for stored in self._blocks(lm, missing):
            if some and tokens + len(stored.block.ids) > most:
                yield some
                some, tokens = [], 0
            some.append(stored)
            tokens += len(stored.block.ids)
        if some:
            yield some

    def _blocks(self, lm: LanguageModel, rows: Rows) -> Iterator[_Stored]:
        """Each row's passage, its block cut to what stands between the prefix and a query."""
        form = Format()
        end = len(lm.tokens(form.separator))
        limit = suffix_position(lm, form, []) - len(form.prefix(lm)) - end
        if limit < LEAST_PASSAGE_TOKENS:
            raise BudgetError(f"the window of {lm.steady_window} tokens has no room for passages beside the prompt",
                              where=f"view {self.kind}", hint="take a model of a longer window")
        for start in range(0, len(rows), _READ_AT_ONCE):
            some = rows[start:start + _READ_AT_ONCE]
            passages = self.store.passages(some)
            for row, passage, block in zip(some.tolist(), passages, form.blocks(lm, passages), strict=True):
                yield _Stored(row, np.frombuffer(content_hash(passage), np.int64).tolist(), block.shortened(lm, limit))

    def _footprint(self, lm: LanguageModel, missing: Rows) -> Footprint:
        """Tokens are counted in all passages, or where there are many in some that are evenly spread over them."""
        sample = missing[::-(-len(missing) // _SAMPLE)] if len(missing) else missing
        tokens = sum(len(stored.block.ids) for stored in self._blocks(lm, sample))
        return Footprint(
            str(self.kind), present=len(self.rows), present_bytes=self.nbytes, missing=len(missing),
            tokens=tokens * len(missing) / max(len(sample), 1), counted=len(sample) == len(missing), layout=self.layout,
        )

    def save_footprint(self, footprint: Footprint) -> None:
        with storage_errors(self.pending, "the disk refused the view's description"):
            footprint.save(self.pending.parent)


def _announce(text: str) -> None:
    """Say it whether or not there is a progress bar: logs should show it, too."""
    from rich.console import Console

    Console(file=sys.stderr).print(visible(text), soft_wrap=True, highlight=False, markup=False)
