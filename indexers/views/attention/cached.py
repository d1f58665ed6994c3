"""Cached passages: their keys and values by a language model, computed once at indexing time, so that reranking runs
only the query.

What a view holds for a passage is the block [marker + passage + separator] of ``rag.lm.passages.Format``, under the
block mask at shared positions after the fixed prefix: it does not depend on the query or on the other passages.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ....rag.dag.stores import folder_of
from ....rag.dag.trace import record
from ....rag.errors import StageError
from ....rag.files import link_tree
from ....rag.lm.prefill import Prefill, plan, tiled
from ....rag.nouns import Ranking, Rows
from ....rag.parts.identity import hashed
from ....rag.text import Span
from ...stores.changes import Contents
from ...stores.integrity import Files
from ...stores.protocols import Store
from .job import SHARDS, Prefix, Recipe, layout_of
from .layout import slots
from .shards import CUT, SCORED, Shard, shard_files

if TYPE_CHECKING:
    import torch


class CachedPassages:
    """The keys and values of passages ``rows``; memory-mapped. ``layers``: so many of the lowest layers are used, at
    first all."""

    def __init__(self, home: Path, dataset: str, made_by: Recipe, prefix: Prefix, shards: list[Shard]) -> None:
        """``home``: the index. ``dataset``: the identity of its passage store."""
        self.home = home
        self.dataset = dataset
        self.fingerprint = hashed([made_by, dataset])
        self.layout = layout_of(made_by)
        self.layers = self.layout.layers
        self.rows: Rows = np.concatenate([shard.rows for shard in shards]) if shards else np.zeros(0, dtype=np.int64)
        none: Contents = np.zeros((0, 2), dtype=np.int64)
        self._contents: Contents = np.concatenate([none, *(shard.contents for shard in shards)])
        self._prefix = prefix
        self._shards = shards
        self._order = np.argsort(self.rows, kind="stable")
        self._first = np.cumsum([0, *(len(shard.rows) for shard in shards)])

    def save(self, folder: Path) -> Files:
        """The shards themselves, as hard links: an older version or a pending folder may be removed."""
        (folder / SHARDS).mkdir()
        known = {}
        for shard in self._shards:
            name = shard.folder.name
            (folder / SHARDS / name).mkdir()
            link_tree(shard.folder, folder / SHARDS / name)
            known.update({f"{SHARDS}/{name}/{file}": digest for file, digest in shard_files(shard.folder).items()})
        self._prefix.save(folder)
        return known

    def prefill(self, ranking: Ranking, device: str = "cpu") -> tuple[Prefill, list[Span]]:
        """The context of the ranking's passages, and their scored spans in it, in the ranking's order.

        The passages stand shortest first, as ``rag.lm.passages.lay_out`` puts them. Numbers are float32 where the view
        holds 32 bits, else float16, or bfloat16 where the model's checkpoint is. The trace counts the passages that
        were cut when they were stored (``passages_cut``). Raises ``StageError`` for a ranking of another index, or with
        passages that the view does not hold.
        """
        found = self._find(ranking)
        record(passages_cut=sum(int(shard.table[i, CUT]) for shard, i in found))
        ids = [shard.ids(i) for shard, i in found]
        scored = [int(shard.table[i, SCORED]) for shard, i in found]
        order = sorted(range(len(found)), key=lambda p: (scored[p], ids[p][:scored[p]]))
        blocks = tiled(len(self._prefix.ids), [len(ids[p]) for p in order])
        spans: list[Span] = [(0, 0)] * len(found)
        for p, (start, _) in zip(order, blocks, strict=True):
            spans[p] = (start, start + scored[p])
        context = [*self._prefix.ids.tolist(), *(token for p in order for token in ids[p])]
        numbers = self._gather([found[p] for p in order], blocks, len(context)).to(device)
        keys, values = list(numbers[0::2]), list(numbers[1::2])
        return Prefill(plan(context, blocks, "block", "shared"), keys, values, complete=False), spans

    def _gather(self, passages: list[tuple[Shard, int]], blocks: list[Span], tokens: int) -> torch.Tensor:
        """The prefix and ``passages`` side by side, [slots, KV heads, tokens, d]: one sequential read for each
        passage."""
        import torch

        layout, before = self.layout, len(self._prefix.ids)
        wanted = slots(self.layers)
        numbers = layout.room_for(wanted, tokens)
        numbers[:, :, :before] = torch.from_numpy(self._prefix.numbers[:wanted])
        for (shard, i), (start, stop) in zip(passages, blocks, strict=True):
            layout.unpack(shard.data(i), numbers[:, :, start:stop])
        return numbers

    def _find(self, ranking: Ranking) -> list[tuple[Shard, int]]:
        """The shard of each of the ranking's passages, and its place there."""
        self._expect_same_store(ranking)
        wanted = ranking.rows
        slots_of = np.searchsorted(self.rows, wanted, sorter=self._order)
        places = self._order[np.minimum(slots_of, len(self.rows) - 1)] if len(self.rows) else np.zeros(0,
                                                                                                       dtype=np.int64)
        if len(places) != len(wanted) or not np.array_equal(self.rows[places], wanted):
            lacking = int((~np.isin(wanted, self.rows)).sum())
            raise StageError(f"{lacking} of the ranking's {len(wanted)} passages are not in the view of "
                             f"{len(self.rows)}",
                             where=str(self.home), hint=f"bring it up to date: regard index --index {self.home}")
        self._expect_same_contents(ranking, places)
        shard_of = np.searchsorted(self._first, places, side="right") - 1
        return [(self._shards[s], int(place - self._first[s]))
                for s, place in zip(shard_of.tolist(), places.tolist(), strict=True)]

    def _expect_same_store(self, ranking: Ranking) -> None:
        """Row numbers mean something only in the dataset that gave them."""
        store = ranking.store
        same = bool(store.uri) and folder_of(store.uri).resolve() == self.home.resolve()
        if not same or store.fingerprint.partition(":")[0] != self.dataset:
            raise StageError(f"the ranking's passages are in {store.uri or 'memory'} ({store.fingerprint}), the cache "
                             f"is of the index "
                             f"{self.home} ({self.dataset})", where="attention cache",
                             hint="rank and rerank with one index, or rerank without cache")


    def _expect_same_contents(self, ranking: Ranking, places: NDArray[np.int64]) -> None:
        """In another history of the index (a restored one, a copy that went its own way) a row may be another
        passage."""
        store = cast(Store, ranking.store)  # its uri says so
        if not np.array_equal(store.contents(ranking.rows), self._contents[places]):
            raise StageError("the index's passages are no longer those that the view was made of", where=str(self.home),
                             hint=f"bring it up to date: regard index --index {self.home}")
