"""The attention behind a ranking: the tokens that carried each score, and the prefill for a reader to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ..nouns import Rows
from .passages import Prompt
from .prefill import Prefill

if TYPE_CHECKING:
    from .engine import LanguageModel
    from .vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class AttentionEvidence:
    """Rides on a ``Ranking`` as its evidence ``attention``; it is in no file and no cache.

    ``tokens`` has for each passage row its tokens as they stood in the prompt (marker first) and their mass, float32
    [tokens]. ``prefill`` holds what a reader may continue from, and ``model`` says whose it is.
    """

    model: str
    vocabulary: Vocabulary
    tokens: dict[int, tuple[Sequence[int], NDArray[np.float32]]]
    prefill: Prefill | None = None

    @classmethod
    def of(cls, lm: LanguageModel, rows: Rows, prompt: Prompt, mass: NDArray[np.float32], *, keep: Rows) -> Self:
        """``rows`` are aligned with the prompt's spans; of ``keep`` the keys and values stay, if the prompt was
        prefilled for it."""
        tokens = {int(row): (prompt.ids[start:stop], mass[start:stop])
                  for row, (start, stop) in zip(rows, prompt.spans, strict=True)}
        kept = None
        if len(keep) and isinstance(prompt.context, Prefill):
            block_at = {start: b for b, (start, _) in enumerate(prompt.blocks)}
            start_of = {int(row): start for row, (start, _) in zip(rows, prompt.spans, strict=True)}
            kept = prompt.context.keep([block_at[start_of[int(row)]] for row in keep if int(row) in start_of])
        return cls(lm.info.name, lm.vocabulary, tokens, kept)

    def pieces(self, row: int) -> list[tuple[str, float]]:
        """The passage's tokens as text, each with its mass; empty for a row that was not in the prompt."""
        ids, mass = self.tokens.get(int(row), ((), np.zeros(0, dtype=np.float32)))
        return list(zip(self.vocabulary.pieces(ids), mass.tolist(), strict=True))

    def to_dict(self) -> None:
        """None: it lives in memory alone."""
