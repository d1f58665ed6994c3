"""The view kind ``attention``: the passages' keys and values by a language model, for
``AttentionReranker(cache=index)``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field

from ....rag.errors import ConfigError, IndexFormatError
from ....rag.lm import describe
from ....rag.lm.heads import AUTO, chosen, deepest
from ....rag.nouns import Rows
from ...stores.lance.store import LanceStore
from ..kind import ViewKind
from ..versions import damaged_view, read_description
from .cached import CachedPassages
from .job import SHARDS, Prefix, bring_up_to_date, layout_of, recipe
from .shards import Shard, shards_in

_HEADS = 8
"""``heads`` means the best this many of a head set, as rerankers take by default."""


class AttentionCache(ViewKind):
    """Keys and values of every passage by ``lm``, in ``bits`` bits, up to the layer ``last``: by default the deepest
    one at which reranking with ``heads`` looks (a head set's file, ``shipped``; ``auto`` as rerankers choose them)."""

    stem = "attention"
    needs_text = True

    lm: str
    bits: Literal[8, 16, 32] = 16
    last: Annotated[int, Field(ge=0)] | None = None
    heads: str = AUTO

    def resolved(self) -> Self:
        """With ``last``, in the place of ``heads``. Raises what ``rag.lm.describe`` raises, ``ConfigError`` for no
        layer of it."""
        if self.last is not None and self.heads != AUTO:
            raise ConfigError(f"{self} says twice how deep it is", where=f"view {self}", hint="give last or heads")
        layers = describe(self.lm).layers
        last = deepest(chosen(self.heads, self.lm, "ndcg", _HEADS, "block"), layers) if self.last is None else self.last
        if last >= layers:
            raise ConfigError(f"{self.lm} has no layer {last}", where=f"view {self}",
                              hint=f"its layers are 0 to {layers - 1}")
        return self.replace(last=last, heads=AUTO)

    def usual(self) -> bool:
        return self == type(self)(self.lm).resolved()

    def identity(self) -> Any:
        layers = (self if self.last is not None else self.resolved()).last
        return recipe(self.lm, (layers or 0) + 1, self.bits)

    def build(self, store: LanceStore, home: Path, progress: bool | None = None) -> CachedPassages:
        """Compute what is neither in an older version of the view nor in an unfinished job's shards (see ``job``)."""
        made_by = self.identity()
        prefix, shards = bring_up_to_date(store, self, home, made_by, progress)
        return CachedPassages(store.path, store.manifest["id"], made_by, prefix, shards)

    def load(self, folder: Path, rows: Rows) -> CachedPassages:
        """Raises ``IndexFormatError`` for a damaged view."""
        meta = read_description(folder)
        if meta is None:
            raise damaged_view(folder, "it has no description")
        layout = layout_of(meta["made_by"])
        shards = [Shard.read(path, layout) for path in shards_in(folder / SHARDS)]
        view = CachedPassages(folder.parents[2], meta["dataset"], meta["made_by"], Prefix.read(folder), shards)
        if not np.array_equal(np.sort(view.rows), np.sort(rows)):
            raise IndexFormatError(f"the view {self} holds {len(view.rows)} of {len(rows)} passages", where=str(folder),
                                   hint=f"run regard index --index {view.home}: it computes the others")
        return view
