"""Policies whose passages see those before them, one after the other, in one prompt or in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ....rag.errors import ConfigError
from ....rag.lm.passages import Prompt
from ....rag.parts import Count
from .policy import Lay, Order, Policy, Scored

if TYPE_CHECKING:
    from ....rag.lm import LanguageModel


class Listwise(Policy):
    """Passages that see those before them, one after the other.

    - ``first``: where the best first-stage passage stands. Part of the score is that place (attention favours what is
      near), which calibration does not remove.
    - ``window``, ``stride``: more than ``window`` candidates are ranked in windows, as ICR's code does: the last
      ``window`` first, and so on to the best in steps of ``stride`` (half a window by default); what comes out best of
      one window stands in the next too. Scores compare within a window only: those that a window settles are lowered
      until its best is 1 below the next window's worst. None: all in one prompt, which ICR's authors recommend wherever
      it fits.
    """

    first: Literal["best-last", "best-first"] = "best-last"
    window: Annotated[int, Field(ge=2)] | None = None
    stride: Count | None = None

    def __post_init__(self) -> None:
        if self.stride is not None and (self.window is None or self.stride > self.window):
            raise ConfigError("stride is a step of a window, so there must be one, at least as long",
                              where=type(self).__name__, hint=f"set window to {self.stride} or more, or no stride")
        if self.window is not None and self.fusion is not None:
            raise ConfigError("scores of several windows cannot be weighed against the first stage's",
                              where=type(self).__name__, hint="set window or fusion, not both")

    def order(self, n: int) -> Order:
        return self._laid(range(n - 1, -1, -1))

    def at_once(self, n: int) -> int:
        return min(n, self.window or n)

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        if self.at_once(n) == n:
            return super().score(lm, lay, n)
        assert self.window is not None
        stride = self.stride or max(1, self.window // 2)
        ascending = list(range(n - 1, -1, -1))  # worst first
        settled: list[tuple[Scored, list[int]]] = []
        for start in range(0, n, stride):
            stop = min(start + self.window, n)
            scored = self.scored(lm, lay(self._laid(ascending[start:stop])))
            ascending[start:stop] = sorted(ascending[start:stop], key=lambda p: scored.scores[p])
            settled.append((scored, ascending[start:stop if stop == n else start + stride]))
            if stop == n:
                break
        return _joined(settled, n)

    def _laid(self, ascending: Sequence[int]) -> Sequence[int]:
        return ascending if self.first == "best-last" else ascending[::-1]


def _joined(settled: Sequence[tuple[Scored, list[int]]], n: int) -> Scored:
    """Windows, the worst first, with what each settled, as one: their contexts one after the other, each passage where
    it was settled."""
    scores, spans = np.zeros(n, dtype=np.float32), [(0, 0)] * n
    floor: float | None = None
    for scored, passages in reversed(settled):
        lowered = 0.0 if floor is None else floor - 1 - float(scored.scores[passages].max())
        scores[passages] = scored.scores[passages] + lowered
        floor = float(scores[passages].min())
    ids: list[int] = []
    for scored, passages in settled:
        for p in passages:
            start, stop = scored.prompt.spans[p]
            spans[p] = (len(ids) + start, len(ids) + stop)
        ids += scored.prompt.ids
    prompts = [scored.prompt for scored, _ in settled]
    suffixes = [suffix for prompt in prompts for suffix in prompt.suffixes]
    joined = Prompt(ids, [], spans, suffixes, prompts[0].mask, prompts[0].positions,
                    cut=sum(prompt.cut for prompt in prompts))
    return Scored(scores, np.concatenate([scored.mass for scored, _ in settled]), joined)
