"""Whether evidence entails a sentence: what a verifier is, and how often each known one is wrong.

Similar is not supported: a citation's ``support`` says how much a sentence and a quoted passage are about the same, and
a verifier says whether the one follows from the other. No verifier is right always, so wherever a verdict is shown, its
verifier and the share of wrong sentences that pass it are shown with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..dag.scope import Scope
from ..parts import Part

SUPPORT_IS = "similarity of the sentence to the quoted passage, 0 to 1; not whether it is true"
"""What ``support`` means, in the words of every view."""


class OpenVerifier(Protocol):
    """A loaded verifier. Judges pairs of texts."""

    def entails(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float64]:
        """The probability that premise ``i`` entails hypothesis ``i``, float64 [n] in [0, 1], whatever else is in the
        batch."""


class Verifier(Part):
    """What judges pairs of texts: ``lexical``, ``nli:MODEL``, ``lm:MODEL``."""

    group = "regard.verifiers"

    @property
    def name(self) -> str:
        """What answers say that judged them, and :data:`MEASURED` knows it by."""
        raise NotImplementedError(f"{type(self).__name__} has no `name`")

    def open(self, scope: Scope, /) -> OpenVerifier:
        """The loaded verifier, whose model the scope gives back."""
        raise NotImplementedError(f"{type(self).__name__} has no `open`")

    def models(self) -> Sequence[str]:
        """The models that it loads, by name."""
        return ()


@dataclass(frozen=True, slots=True)
class Measured:
    """How a verifier did: the share of wrong sentences that passed, of right ones that passed, and on what."""

    false_passes: float
    recall: float
    statements: int
    on: str


MEASURED = {
    "lexical": Measured(0.664, 0.882, 560, "XQuAD, another answer of the paragraph put in"),
    "lm:smollm2": Measured(0.0, 0.0, 100, "XQuAD, another answer of the paragraph put in; it answers no to everything"),
}
"""Verifier to what ``tests/benchmarks/bench_citations.py`` measured, on articles that no rule was chosen on."""


def described(verifier: str) -> str:
    """The verifier with how often it is wrong: what stands beside its verdicts."""
    known = MEASURED.get(verifier)
    if known is None:
        return f"verifier {verifier} (how often it is wrong was not measured)"
    passed = f"{known.false_passes:.0%} of wrong sentences passed it, {known.recall:.0%} of right ones"
    return f"verifier {verifier} ({passed}; {known.on})"
