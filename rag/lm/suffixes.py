"""Suffixes that each continue one prefilled context, unseen by each other, in one pass; and the attention they pay to
the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import ConfigError
from ..text import Span
from .attention import How, LastLayer
from .prefill import Prefill

if TYPE_CHECKING:
    import torch

    from ...kernels.attention_mass import Reach


@dataclass(frozen=True, slots=True)
class SuffixRows:
    """The suffixes' tokens: those that all begin with stand once, at the front; then each suffix's own.

    ``ids`` and ``positions`` one a row, ``visible`` bool [rows, rows] (which row sees which), ``weights`` float32
    [rows], signed: a suffix's weight shared out evenly among its query rows, 0 for the others.
    """

    ids: list[int]
    positions: list[int]
    visible: torch.Tensor
    weights: torch.Tensor

    @property
    def end(self) -> int:
        """How many positions a prompt has that these rows end."""
        return max(self.positions) + 1


def rows(suffixes: Sequence[Sequence[int]], weights: Sequence[float] | None, query_rows: Sequence[Span] | None,
         after: int) -> SuffixRows:
    """Lay the suffixes out, each from position ``after`` on.

    A row that suffixes have in common gets the sum of their weights: it pays the same attention in each.
    """
    import torch

    weights = [1.0] * len(suffixes) if weights is None else weights
    query_rows = [(0, len(s)) for s in suffixes] if query_rows is None else query_rows
    if not suffixes or not len(suffixes) == len(weights) == len(query_rows):
        raise ConfigError(f"{len(suffixes)} suffixes, {len(weights)} weights, {len(query_rows)} row ranges",
                          where="attention_mass",
                          hint="pass at least one suffix, and one weight and one range for each")
    common = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*suffixes, strict=False)))
    ids, positions, owner = list(suffixes[0][:common]), list(range(after, after + common)), [-1] * common
    shares = [0.0] * common
    for s, (suffix, weight, (start, stop)) in enumerate(zip(suffixes, weights, query_rows, strict=True)):
        if not 0 <= start < stop <= len(suffix):
            raise ConfigError(f"rows {start} to {stop} of a suffix of {len(suffix)} tokens", where="attention_mass",
                              hint="a suffix needs at least one query row, within it")
        share = [weight / (stop - start) if start <= row < stop else 0.0 for row in range(len(suffix))]
        shares[:common] = [a + b for a, b in zip(shares, share[:common], strict=False)]
        ids += suffix[common:]
        positions += range(after + common, after + len(suffix))
        owner += [s] * (len(suffix) - common)
        shares += share[common:]
    mine, at = torch.tensor(owner), torch.tensor(positions)
    visible = ((mine[None, :] == -1) | (mine[:, None] == mine[None, :])) & (at[:, None] >= at[None, :])
    return SuffixRows(ids, positions, visible, torch.tensor(shares))


def laid_on(device: Any, laid: SuffixRows) -> SuffixRows:
    """``laid`` with its tensors on ``device``."""
    return replace(laid, visible=laid.visible.to(device), weights=laid.weights.to(device))


class _About(TypedDict):
    visible: torch.Tensor
    scale: float
    softcap: float | None
    reach: Reach | None


@dataclass(slots=True)
class _SuffixPass:
    """Rows after ``context`` that see all of it; the pass ends at layer ``last``."""

    context: Prefill
    rows: SuffixRows
    last: int

    @property
    def length(self) -> int:
        return max(self.context.length, self.rows.end)

    def _about(self, how: How) -> _About:
        return {"visible": self.rows.visible, "scale": how.scale, "softcap": how.softcap,
                "reach": self._reach(how.window)}

    def _reach(self, window: int | None) -> Reach | None:
        if window is None:
            return None
        import torch

        from ...kernels.attention_mass import Reach

        device = self.rows.visible.device
        own = torch.tensor(self.rows.positions, device=device)
        return Reach(window, own, torch.tensor(self.context.plan.positions, device=device), own)


@dataclass(slots=True)
class MassPass(_SuffixPass):
    """Adds up in ``mass``, float32 [context], the rows' weighted attention by the chosen ``heads`` of each layer."""

    heads: Mapping[int, Sequence[int]]
    mass: torch.Tensor

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
        from ...kernels.attention_mass import attend, attention_mass

        weights = self.rows.weights.new_zeros(query.shape[0], len(self.rows.ids))
        weights[list(self.heads.get(layer, ()))] = self.rows.weights
        context = self.context
        if layer == self.last:
            self.mass += attention_mass(query, context.keys[layer], key, weights, **self._about(how))
            raise LastLayer
        output, mass = attend(query, context.keys[layer], context.values[layer], key, value, weights,
                              **self._about(how))
        self.mass += mass
        return output


@dataclass(slots=True)
class HeadScoresPass(_SuffixPass):
    """Puts into ``scores``, float32 [layers, heads, spans], each head's weighted attention to ``spans`` of the
    context."""

    spans: Sequence[Span]
    scores: torch.Tensor

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
        from ...kernels.attention_mass import attend
        from ...kernels.head_scores import head_scores

        context = self.context
        self.scores[layer] = head_scores(query, context.keys[layer], key, self.rows.weights, self.spans,
                                         **self._about(how))
        if layer == self.last:
            raise LastLayer
        unweighted = self.rows.weights.new_zeros(query.shape[0], len(self.rows.ids))
        return attend(query, context.keys[layer], context.values[layer], key, value, unweighted, **self._about(how))[0]


def heads_by_layer(heads: Sequence[tuple[int, int]] | None, layers: int, per_layer: int, model: str) -> dict[int,
                                                                                                             list[int]]:
    """The chosen heads of each layer; all of them for None. Raises ``ConfigError`` for a head that the model has
    not."""
    if heads is None:
        return {layer: list(range(per_layer)) for layer in range(layers)}
    by_layer: dict[int, list[int]] = {}
    for layer, head in sorted(set(heads)):
        if not (0 <= layer < layers and 0 <= head < per_layer):
            raise ConfigError(f"there is no head {head} in layer {layer}", where=f"model {model!r}",
                              hint=f"it has {layers} layers of {per_layer} heads, counted from 0")
        by_layer.setdefault(layer, []).append(head)
    if not by_layer:
        raise ConfigError("no head is chosen", where="attention_mass", hint="pass heads=None for all of them")
    return by_layer
