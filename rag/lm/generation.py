"""Decoding: one token after the other from the last position's logits, greedy or sampled, streamed as whole
characters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import ConfigError
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote. ``tokens`` and ``prompt_tokens`` are counts; ``ids`` are the generated tokens without the
    stop token.

    ``finish`` is ``"stop"`` when the model ended its turn, ``"length"`` when ``max_new_tokens`` ended it.
    """

    text: str
    tokens: int
    prompt_tokens: int
    finish: Literal["stop", "length"]
    ids: tuple[int, ...] = ()


class DecodingStep(Protocol):
    """One forward pass over tokens that follow the ones seen so far: float32 logits [vocabulary] of the last, on the
    CPU."""

    def __call__(self, ids: Sequence[int]) -> torch.Tensor: ...


class Sampler:
    """Picks the next token: the likeliest at temperature 0, else nucleus sampling (Holtzman et al. 2020, arXiv
    1904.09751).

    The random numbers are its own: the same seed gives the same tokens, whatever else the process draws.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise ConfigError(f"temperature {temperature} and top_p {top_p} cannot be sampled from", where="generate",
                              hint="temperature is 0 (greedy) or more, top_p is above 0 and at most 1")
        import torch

        self._temperature = temperature
        self._top_p = top_p
        self._random = torch.Generator().manual_seed(seed)

    def __call__(self, logits: torch.Tensor) -> int:
        import torch

        if self._temperature == 0:
            return int(logits.argmax())
        likely, ids = (logits / self._temperature).softmax(dim=-1).sort(descending=True, stable=True)
        likely[likely.cumsum(dim=-1) - likely >= self._top_p] = 0
        return int(ids[torch.multinomial(likely, 1, generator=self._random)])


class TextStream:
    """Token ids in, text out, in pieces that never break a character; the pieces together are the ids' text."""

    def __init__(self, vocabulary: Vocabulary, on_text: Callable[[str], None] | None) -> None:
        self._vocabulary = vocabulary
        self._on_text = on_text
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> None:
        self.ids.append(token)
        text = self._vocabulary.text(self.ids)
        if not text.endswith("\ufffd"):  # the first bytes of a character whose last bytes are in the next token
            self._show(text)

    def finish(self) -> str:
        self._show(self._vocabulary.text(self.ids))
        return self.text

    def _show(self, text: str) -> None:
        piece = text[len(self.text):]
        self.text = text
        if piece and self._on_text:
            self._on_text(piece)


def decode(
    step: DecodingStep, prompt: Sequence[int], stream: TextStream, *, sampler: Sampler, max_new_tokens: int,
    stop: Collection[int],
) -> Generation:
    """Prefill ``prompt`` and decode until a token of ``stop`` or ``max_new_tokens``."""
    finish: Literal["stop", "length"] = "length"
    logits = step(prompt)
    while len(stream.ids) < max_new_tokens:
        token = sampler(logits)
        if token in stop:
            finish = "stop"
            break
        stream.add(token)
        if len(stream.ids) < max_new_tokens:
            logits = step([token])
    return Generation(stream.finish(), len(stream.ids), len(prompt), finish, tuple(stream.ids))
