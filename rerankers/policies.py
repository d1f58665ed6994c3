"""Policies: which attention counts, under which mask, and how it becomes a score. Each is a published method, or ours.

All score passages by the attention that a reading of the query pays to their tokens (``LanguageModel.attention_mass``). They
differ in what passages see of each other, in which heads and layers count, and in what is made of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ..rag.documents import Scores
from ..rag.errors import ConfigError
from ..rag.lm.heads import Heads, Measure, chosen
from ..rag.lm.passages import CONSTANT_MARKER, Prompt
from ..rag.lm.prefill import Mask, Positions

if TYPE_CHECKING:
    from ..rag.lm import LanguageModel

Order = Sequence[int] | None
Lay = Callable[[Order], Prompt]
"""Puts the candidates into a prompt in this order; None: in one that does not depend on the order they come in."""


@dataclass(frozen=True, slots=True)
class Scored:
    """``scores`` float32 [passages], in the ranking's order; ``mass`` float32 [context], what each token of ``prompt`` contributed."""

    scores: Scores
    mass: NDArray[np.float32]
    prompt: Prompt


class Policy(BaseModel):
    """Settings that all policies have.

    - ``calibration``: the content-free query whose attention is subtracted; None for uncalibrated scores.
    - ``separator``: between passages.
    - ``deviations``: a passage's tokens this many standard deviations below its mean do not count; None counts all.
    - ``fusion``: None gives the attention's score alone. A weight w from 0 to 1 gives w * attention + (1 - w) * first stage, each
      brought to mean 0 and standard deviation 1 over the candidates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration: str | None = "N/A"
    separator: str = "\n"
    deviations: Annotated[float, Field(ge=0)] | None = 2.0
    fusion: Annotated[float, Field(ge=0, le=1)] | None = None

    mask: ClassVar[Mask] = "causal"
    positions: ClassVar[Positions] = "distinct"
    marker: ClassVar[str] = "[{i}] "

    def order(self, n: int) -> Order:
        """The best first-stage passage last, next to the query: the published code's."""
        return range(n - 1, -1, -1)

    def heads_in(self, lm: str) -> Heads:
        """The (layer, head) pairs that count in model ``lm``; None: all."""
        return None

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        """Rank ``n`` candidates, by default as ICR does."""
        prompt = lay(self.order(n))
        mass = lm.attention_mass(prompt.context, prompt.suffixes, heads=self.heads_in(lm.info.name), mask=prompt.mask,
                                 positions=prompt.positions, blocks=prompt.blocks, weights=[1.0, -1.0][:len(prompt.suffixes)],
                                 after=prompt.after)
        return Scored(_summed(mass, prompt, self.deviations), mass, prompt)


class ICR(Policy):
    """In-Context Re-ranking as published: Chen, Gutiérrez and Su 2024, arXiv 2410.02642.

    All heads, passages that see those before them. ``first`` is where the best first-stage passage stands: part of the score is that
    position (attention favours what is near), which calibration does not remove.
    """

    kind: Literal["ICR"] = "ICR"
    first: Literal["best-last", "best-first"] = "best-last"

    def order(self, n: int) -> Order:
        return range(n) if self.first == "best-first" else super().order(n)


class _OrderFree(Policy):
    """Passages that see the prompt's beginning and themselves, at the same positions with the same marker: their order is no matter."""

    mask: ClassVar[Mask] = "block"
    positions: ClassVar[Positions] = "shared"
    marker: ClassVar[str] = CONSTANT_MARKER

    def order(self, n: int) -> Order:
        return None


class BlockICR(_OrderFree):
    """ICR without order: each passage sees the prompt's beginning and itself, all stand at the same positions with the same marker.

    A passage's keys and values and its distance to the query do not depend on the others; the former can be computed once for all
    queries. The score does: passages share out one softmax, and the query's rows have read them all in the layers below. What ICR
    takes from the first stage's order by accident is taken from its scores on purpose (``fusion``). ``heads``: the ``top`` heads by
    ``measure`` of a head set's file, of the set that comes with the model ("shipped"), or of that one where there is one ("auto");
    None: all heads.
    """

    kind: Literal["BlockICR"] = "BlockICR"
    fusion: Annotated[float, Field(ge=0, le=1)] | None = 0.5
    heads: str | None = "auto"
    top: Annotated[int, Field(ge=1)] = 8
    measure: Measure = "ndcg"

    def heads_in(self, lm: str) -> Heads:
        return None if self.heads is None else chosen(self.heads, lm, self.measure, self.top, self.mask)


class QRHead(Policy):
    """Query-focused retrieval heads: Zhang et al. 2025, arXiv 2506.09944. The ``top`` heads by the attention they pay to relevant
    passages on another collection count, all of a passage's tokens do."""

    kind: Literal["QRHead"] = "QRHead"
    deviations: Annotated[float, Field(ge=0)] | None = None
    heads: str = "shipped"
    top: Annotated[int, Field(ge=1)] = 16

    def heads_in(self, lm: str) -> Heads:
        return chosen(self.heads, lm, "qr_score", self.top, self.mask)


class CoRe(Policy):
    """Contrastive retrieval heads (CoRe): arXiv 2510.02219. The ``top`` heads that best tell relevant passages from hard negatives."""

    kind: Literal["CoRe"] = "CoRe"
    heads: str = "shipped"
    top: Annotated[int, Field(ge=1)] = 8

    def heads_in(self, lm: str) -> Heads:
        return chosen(self.heads, lm, "contrastive", self.top, self.mask)


class LayerBand(Policy):
    """Selective-ICR, arXiv 2602.22591: all heads of the middle layers, from the share ``start`` of the depth up to ``stop``."""

    kind: Literal["LayerBand"] = "LayerBand"
    start: Annotated[float, Field(ge=0, lt=1)] = 0.4
    stop: Annotated[float, Field(gt=0, le=1)] = 0.7

    def heads_in(self, lm: str) -> Heads:
        from ..rag.lm import describe

        info = describe(lm)
        layers = range(round(self.start * info.layers), round(self.stop * info.layers))
        if not layers:
            raise ConfigError(f"no layer of {info.layers} lies between {self.start} and {self.stop}", where="LayerBand",
                              hint="set stop further above start")
        return [(layer, head) for layer in layers for head in range(info.heads)]


class SignalTokens(_OrderFree):
    """BlockRank's score (arXiv 2510.05396): how the last two tokens of the query's turn share their attention out among the passages.

    At the layer at share ``depth`` of the model, the softmax over passage tokens only, averaged over heads. As in the paper a passage
    sees the instruction and itself, at shared positions; the model is not trained for it, which in the paper it is.
    """

    kind: Literal["SignalTokens"] = "SignalTokens"
    calibration: None = None
    deviations: None = None
    depth: Annotated[float, Field(ge=0, le=1)] = 0.6

    def heads_in(self, lm: str) -> Heads:
        from ..rag.lm import describe

        info = describe(lm)
        return [(round(self.depth * (info.layers - 1)), head) for head in range(info.heads)]

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        prompt = lay(None)
        heads = self.heads_in(lm.info.name) or []
        layer, suffix = heads[0][0], prompt.suffixes[0]
        context = prompt.context if not isinstance(prompt.context, list) else lm.prefill(
            prompt.context, blocks=prompt.blocks, mask=prompt.mask, positions=prompt.positions, last=layer)
        shares = np.zeros(n)
        for row in range(len(suffix) - min(2, len(suffix)), len(suffix)):  # one row a time: each has its own softmax
            paid = lm.head_scores(context, [suffix], prompt.spans, layers=layer + 1, query_rows=[(row, row + 1)], after=prompt.after)[layer]
            total = np.sort(paid.astype(np.float64), axis=1).sum(axis=1, keepdims=True)  # sorted: the same in any order
            shares += (paid / total).mean(axis=0) / min(2, len(suffix))
        mass = lm.attention_mass(context, [suffix], heads=heads, query_rows=[(max(0, len(suffix) - 2), len(suffix))], after=prompt.after)
        return Scored(shares.astype(np.float32), mass, prompt)


class AttentionSorting(Policy):
    """Attention Sorting (Peysakhovich and Lerer 2023, arXiv 2310.01427): sort the passages by the attention that the answer's first
    token pays them, most last, and do so again, ``rounds`` times. Attention favours what is near, so each round is harder on its winner.
    """

    kind: Literal["AttentionSorting"] = "AttentionSorting"
    calibration: None = None
    deviations: None = None
    rounds: Annotated[int, Field(ge=1)] = 2

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        order = list(range(n - 1, -1, -1))
        for _ in range(self.rounds):
            prompt = lay(order)
            last = len(prompt.suffixes[0])
            mass = lm.attention_mass(prompt.context, prompt.suffixes, query_rows=[(last - 1, last)])
            scores = _summed(mass, prompt, None)
            order = [int(p) for p in np.argsort(scores, kind="stable")]
        return Scored(scores, mass, prompt)


AnyPolicy = Annotated[
    ICR | BlockICR | QRHead | CoRe | LayerBand | SignalTokens | AttentionSorting, Field(discriminator="kind"),
]
POLICIES: dict[str, type[Policy]] = {p.__name__: p for p in (ICR, BlockICR, QRHead, CoRe, LayerBand, SignalTokens, AttentionSorting)}


def _summed(mass: NDArray[np.float32], prompt: Prompt, deviations: float | None) -> Scores:
    """Each passage's mass, float32 [passages], without low outliers."""
    if deviations is None:
        return np.array([mass[start:stop].sum(dtype=np.float64) for start, stop in prompt.spans], dtype=np.float32)
    import torch

    from ..kernels.span_filter_sum import span_filter_sum

    scores: Scores = span_filter_sum(torch.from_numpy(mass), prompt.spans, deviations=deviations).numpy()
    return scores


def fused(attention: Scores, first_stage: Scores, weight: float) -> Scores:
    """The weighted sum of both, each brought to mean 0 and standard deviation 1 over the candidates (all 0 where they are equal)."""
    both = weight * _standard(attention) + (1 - weight) * _standard(first_stage)
    return both.astype(np.float32)


def _standard(scores: Scores) -> NDArray[np.float64]:
    exact = scores.astype(np.float64)
    spread = exact.std()
    return (exact - exact.mean()) / spread if spread > 0 else np.zeros(len(exact))
