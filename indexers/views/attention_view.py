"""Cached passages: their keys and values by a language model, computed once at indexing time, so that reranking runs only the query.

What a view holds for a passage is the block [marker + passage + separator] of ``rag.lm.passages.Format``, under the block mask at
shared positions after the fixed prefix: it does not depend on the query or on the other passages.
"""

from __future__ import annotations

from dataclasses import asdict
from hashlib import blake2b
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ...rag.dag.stores import open_store
from ...rag.dag.trace import record
from ...rag.errors import FingerprintMismatch, IndexFormatError, IndexNotFound, StageError
from ...rag.lm import describe
from ...rag.lm.passages import Format
from ...rag.lm.prefill import Prefill, plan, tiled
from ...rag.models import resolve, weights_hash
from ...rag.nouns import Ranking, Rows
from ...rag.text import Span
from ..integrity import Files
from ..stores.lance.store import Contents, LanceStore
from .attention_job import FORMAT, SHARDS, Prefix, Recipe, bring_up_to_date, half_of, layout_of
from .attention_layout import slots
from .attention_shards import CUT, SCORED, Shard, link_folder, shard_files, shards_in
from .spec import ATTENTION, ViewSpec
from .versions import Version, newest_versions, versions_of

if TYPE_CHECKING:
    import torch


def open_prefills(index: str, lm: str, form: Format, last: int) -> AttentionView:
    """Entry point ``regard.prefills: attention``: the stored keys and values of the passages of ``index`` by model ``lm``.

    For prompts of ``form``, up to layer ``last``. A view of another name with the same model's weights will do. An index that has grown
    since is no error; a ranking with passages that the view lacks is. Raises ``IndexNotFound`` without such a view,
    ``FingerprintMismatch`` when it was made with other weights or another format, or for fewer layers.
    """
    try:
        return _opened(_store(index), lm, form, last)
    except (OSError, IndexFormatError):  # a job may have put a newer version in the place of the one that was found
        return _opened(_store(index), lm, form, last)


def _store(index: str) -> LanceStore:
    store = open_store(f"lance:{index}")
    assert isinstance(store, LanceStore)
    return store


def _opened(store: LanceStore, lm: str, form: Format, last: int) -> AttentionView:
    version = _version_of(store, lm)
    if not version.damaged:
        _expect_same(version, lm, form, last, store)
    return AttentionView.load(version, layers=last + 1)


class AttentionView:
    """The keys and values of passages ``rows``, up to the lowest ``layers`` layers; memory-mapped."""

    def __init__(self, home: Path, dataset: str, made_by: Recipe, prefix: Prefix, shards: list[Shard], layers: int | None = None) -> None:
        """``home``: the index. ``dataset``: the identity of its passage store."""
        self.home = home
        self.dataset = dataset
        self.fingerprint = blake2b(dumps([made_by, dataset], sort_keys=True).encode(), digest_size=16).hexdigest()
        self.layout = layout_of(made_by)
        self.layers = layers or self.layout.layers
        self.rows: Rows = np.concatenate([shard.rows for shard in shards]) if shards else np.zeros(0, dtype=np.int64)
        self._contents: Contents = np.concatenate([shard.contents for shard in shards]) if shards else np.zeros((0, 2), dtype=np.int64)
        self._prefix = prefix
        self._shards = shards
        self._order = np.argsort(self.rows, kind="stable")
        self._first = np.cumsum([0, *(len(shard.rows) for shard in shards)])

    @classmethod
    def build(cls, store: LanceStore, spec: ViewSpec, made_by: Recipe, progress: bool | None) -> Self:
        """Compute what is neither in an older version of the view nor in an unfinished job's shards (see ``attention_job``)."""
        prefix, shards = bring_up_to_date(store, spec, made_by, progress)
        return cls(store.path, store.manifest["id"], made_by, prefix, shards)

    def save(self, folder: Path) -> Files:
        """The shards themselves, as hard links: an older version or a pending folder may be removed."""
        (folder / SHARDS).mkdir()
        known = {}
        for shard in self._shards:
            name = shard.folder.name
            link_folder(shard.folder, folder / SHARDS / name)
            known.update({f"{SHARDS}/{name}/{file}": digest for file, digest in shard_files(shard.folder).items()})
        self._prefix.save(folder)
        return known

    @classmethod
    def load(cls, version: Version, *, layers: int | None = None) -> Self:
        """Raises ``IndexFormatError`` for a damaged view."""
        version.expect_whole()
        folder, meta, rows = version.folder, version.meta, version.rows()
        layout = layout_of(meta["made_by"])
        shards = [Shard.read(path, layout) for path in shards_in(folder / SHARDS)]
        view = cls(folder.parents[2], meta["dataset"], meta["made_by"], Prefix.read(folder), shards, layers)
        if not np.array_equal(np.sort(view.rows), np.sort(rows)):
            raise IndexFormatError(f"the view {version.spec} holds {len(view.rows)} of {len(rows)} passages", where=str(folder),
                                   hint=f"run regard index --index {view.home}: it computes the others")
        return view

    def prefill(self, ranking: Ranking, device: str = "cpu") -> tuple[Prefill, list[Span]]:
        """The context of the ranking's passages, and their scored spans in it, in the ranking's order.

        The passages stand shortest first, as ``rag.lm.passages.lay_out`` puts them. Numbers are float32 where the view holds 32 bits, else
        float16, or bfloat16 where the model's checkpoint is. The trace counts the passages that were cut when they were stored
        (``passages_cut``). Raises ``StageError`` for a ranking of another index, or with passages that the view does not hold.
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
        """The prefix and ``passages`` side by side, [slots, KV heads, tokens, d]: one sequential read for each passage."""
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
        places = self._order[np.minimum(slots_of, len(self.rows) - 1)] if len(self.rows) else np.zeros(0, dtype=np.int64)
        if len(places) != len(wanted) or not np.array_equal(self.rows[places], wanted):
            lacking = int((~np.isin(wanted, self.rows)).sum())
            raise StageError(f"{lacking} of the ranking's {len(wanted)} passages are not in the view of {len(self.rows)}",
                             where=str(self.home), hint=f"bring it up to date: regard index --index {self.home}")
        self._expect_same_contents(ranking, places)
        shard_of = np.searchsorted(self._first, places, side="right") - 1
        return [(self._shards[s], int(place - self._first[s])) for s, place in zip(shard_of.tolist(), places.tolist(), strict=True)]

    def _expect_same_store(self, ranking: Ranking) -> None:
        """Row numbers mean something only in the dataset that gave them."""
        store = ranking.store
        scheme, _, path = store.uri.partition(":")
        same = scheme == "lance" and Path(path).resolve() == self.home.resolve()
        if not same or store.fingerprint.partition(":")[0] != self.dataset:
            raise StageError(f"the ranking's passages are in {store.uri or 'memory'} ({store.fingerprint}), the cache is of the index "
                             f"{self.home} ({self.dataset})", where="attention cache",
                             hint="rank and rerank with one index, or rerank without cache")


    def _expect_same_contents(self, ranking: Ranking, places: NDArray[np.int64]) -> None:
        """In another history of the index (a restored one, a copy that went its own way) a row may be another passage."""
        store = ranking.store
        assert isinstance(store, LanceStore)  # its uri says so
        if not np.array_equal(store.contents(ranking.rows), self._contents[places]):
            raise StageError("the index's passages are no longer those that the view was made of", where=str(self.home),
                             hint=f"bring it up to date: regard index --index {self.home}")


def _version_of(store: LanceStore, lm: str) -> Version:
    """The view by this model: by its weights, else, for the error that follows, by its name."""
    views = [_of_this(version, store) for version in newest_versions(store.path) if version.spec.kind == ATTENTION]
    views.sort(key=lambda version: version.spec.encoder != lm)
    weights = weights_hash(resolve(lm))
    same = next((v for v in views if v.meta.get("made_by", {}).get("weights") == weights), None)
    named = same or (views[0] if views and views[0].spec.encoder == lm else None)
    if named is None:
        raise IndexNotFound(f"the index has no view attention:{lm}", where=str(store.path),
                            hint=f"add it: regard index --index {store.path} --view attention:{lm}; it has: "
                                 f"{', '.join(str(v.spec) for v in views) or 'no attention views'}")
    return named


def _of_this(newest: Version, store: LanceStore) -> Version:
    """The view for the store's own version where it is there, else the newest."""
    return next((v for v in versions_of(newest.folder.parent, store) if v.meta.get("commit") == store.commit), newest)


def _expect_same(version: Version, lm: str, form: Format, last: int, store: LanceStore) -> None:
    """Raise ``FingerprintMismatch`` unless what is stored is what the reranker would compute."""
    info = describe(lm)
    stored = {**version.meta["made_by"], "dataset": version.meta["dataset"]}
    wanted = {"format": FORMAT, "weights": weights_hash(resolve(lm)), "prompt": loads(dumps(asdict(form))), "layers": last + 1,
              "kv_heads": info.kv_heads, "head_dim": info.head_dim, "half": half_of(info), "dataset": store.manifest["id"]}
    different = {key for key in wanted if stored.get(key) != wanted[key]}
    if stored["layers"] > last:
        different.discard("layers")
    if different:
        show = sorted(different)
        raise FingerprintMismatch(
            f"the view {version.spec} holds other keys and values than asked for:\n    stored: { {key: stored.get(key) for key in show} }\n"
            f"    wanted: { {key: wanted[key] for key in show} }", where=str(version.folder), hint=_remedy(different, store, lm, last))


def _remedy(different: set[str], store: LanceStore, lm: str, last: int) -> str:
    if "prompt" in different:
        return f"rerank with the format of the cache (policy, max_words, turn: the defaults), or without cache; it was made for {Format()}"
    if different == {"layers"}:
        return f"choose lower heads, or store more layers: regard index --index {store.path} --view attention:{lm},last={last}"
    return f"make it anew: regard index --index {store.path} --view attention:{lm}"
