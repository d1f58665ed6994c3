"""A prefilled context as a value: the keys and values of a prefix and of passage blocks after it.

Under the block mask a block sees the prefix and itself, so its keys and values are the same whatever stands beside it:
blocks can be dropped, stored, and handed from a reranker to a reader. At shared positions all blocks begin where the
prefix ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from ..text import Span
from .attention import How, LastLayer

if TYPE_CHECKING:
    import torch

Mask = Literal["causal", "block"]
Positions = Literal["distinct", "shared"]


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """Where the tokens of a context stand: ``prefix`` tokens that all see, then ``blocks`` (half-open spans, one after
    the other).

    ``positions`` has one for each token; what follows the context begins at position ``after``.
    """

    ids: tuple[int, ...]
    prefix: int
    blocks: tuple[Span, ...]
    positions: tuple[int, ...]
    after: int

    def chunks(self, size: int) -> Iterator[tuple[Span, list[Span], int]]:
        """Spans of about ``size`` tokens to run at once, the spans in them that do not see each other, and how much all
        see."""
        for start in range(0, self.prefix, size):
            stop = min(start + size, self.prefix)
            yield (start, stop), [(start, stop)], start
        group: list[Span] = []
        for block in self.blocks:
            if group and block[1] - group[0][0] > size:
                yield (group[0][0], group[-1][1]), group, self.prefix
                group = []
            group.append(block)
        if group:
            yield (group[0][0], group[-1][1]), group, self.prefix


def plan(context: Sequence[int], blocks: Sequence[Span], mask: Mask, positions: Positions) -> PrefillPlan:
    """Raises ``ConfigError`` for blocks that do not tile the end of ``context``, or shared positions under the causal
    mask."""
    if mask == "causal":
        if positions == "shared":
            raise ConfigError("blocks that see each other cannot share positions", where="attention",
                              hint='use mask="block" with positions="shared"')
        return PrefillPlan(tuple(context), len(context), (), tuple(range(len(context))), len(context))
    prefix = blocks[0][0] if blocks else len(context)
    ends = [prefix, *(stop for _, stop in blocks)]
    if [start for start, _ in blocks] != ends[:-1] or ends[-1] != len(context) or sorted(ends) != ends:
        raise ConfigError(f"{len(blocks)} blocks do not follow each other up to the end of the context",
                          where="attention",
                          hint="blocks are half-open spans of the context, each beginning where the one before it ends")
    if positions == "distinct":
        return PrefillPlan(tuple(context), prefix, tuple(blocks), tuple(range(len(context))), len(context))
    shared = [prefix + i for start, stop in blocks for i in range(stop - start)]
    longest = max((stop - start for start, stop in blocks), default=0)
    return PrefillPlan(tuple(context), prefix, tuple(blocks), (*range(prefix), *shared), prefix + longest)


@dataclass(frozen=True, slots=True)
class Prefill:
    """Keys and values of the tokens of ``plan``: one tensor [KV heads, tokens, d] for each of the lowest ``layers``
    layers.

    The topmost layer's values are missing where nothing above it was wanted (``complete`` is false then): it can be
    looked at, but not continued from. float32 or the model's dtype; what comes from a store may have 16 bits.
    ``length`` is how long a prompt the keys were turned for, where their angles depend on it (``rotation``).
    """

    plan: PrefillPlan
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    complete: bool = True
    length: int = 0

    @property
    def layers(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def block_ids(self, block: int) -> tuple[int, ...]:
        start, stop = self.plan.blocks[block]
        return self.plan.ids[start:stop]

    def keep(self, blocks: Sequence[int]) -> Prefill:
        """The prefix and ``blocks`` (numbers, from 0), in that order; the other blocks are dropped. Shared positions
        only.

        What remains equals a fresh prefill of the same prefix and blocks. Copies what is kept.
        """
        import torch

        if self.plan.blocks and self.plan.positions[self.plan.blocks[-1][0]] != self.plan.prefix:
            raise ConfigError("blocks at distinct positions cannot be dropped: what stood before a block is in its "
                              "keys",
                              where="Prefill.keep", hint='prefill with positions="shared"')
        spans = [self.plan.blocks[b] for b in blocks]
        tokens = [*range(self.plan.prefix), *(t for start, stop in spans for t in range(start, stop))]
        kept = plan([self.plan.ids[t] for t in tokens],
                    tiled(self.plan.prefix, [stop - start for start, stop in spans]),
                    "block", "shared")
        index = torch.tensor(tokens, device=self.keys[0].device)
        return Prefill(kept, [k.index_select(1, index) for k in self.keys],
                       [v.index_select(1, index) for v in self.values],
                       self.complete, self.length)


def tiled(start: int, lengths: Sequence[int]) -> list[Span]:
    """Half-open spans of ``lengths``, one after the other from ``start``."""
    spans = []
    for length in lengths:
        spans.append((start, start + length))
        start += length
    return spans


@dataclass(slots=True)
class PrefillPass:
    """Keeps the keys and values of tokens ``span`` in ``into``; each of ``parts`` sees ``seen`` tokens of the context,
    and itself.

    The pass ends at layer ``last``, of which only the keys are kept; with None it runs through.
    """

    into: Prefill
    span: Span
    parts: Sequence[Span]
    seen: int
    last: int | None

    @property
    def length(self) -> int:
        return self.into.length

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
        from ...kernels.block_attention import block_attention

        self._keep(self.into.keys, layer, key)
        if layer == self.last:
            raise LastLayer
        self._keep(self.into.values, layer, value)
        return block_attention(
            query, key, value, self.into.keys[layer][:, :self.seen], self.into.values[layer][:, :self.seen],
            offsets=[start - self.span[0] for start, _ in self.parts] + [self.span[1] - self.span[0]], scale=how.scale,
            softcap=how.softcap, window=how.window, positions=self._positions(how.window, query.device),
        )

    def _keep(self, store: list[torch.Tensor], layer: int, new: torch.Tensor) -> None:
        if layer == len(store):
            store.append(new.new_empty(new.shape[0], len(self.into.plan.ids), new.shape[2]))
        store[layer][:, self.span[0]:self.span[1]] = new

    def _positions(self, window: int | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
        if window is None:
            return None
        import torch

        positions = torch.tensor(self.into.plan.positions, device=device)
        return positions[self.span[0]:self.span[1]], positions[:self.seen]
