"""An answer with its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..tables import html
from .plain import PlainNoun, parsed
from .text import Passage

ENTAILED = 0.5
"""The probability from which a sentence counts as entailed."""


@dataclass(frozen=True, slots=True)
class Context(PlainNoun):
    """What the reader was shown: passages in prompt order, each with its half-open token span in the prompt."""

    passages: tuple[Passage, ...]
    spans: tuple[tuple[int, int], ...]
    prompt_tokens: int
    dropped: int = 0  # passages of the ranking that did not fit the budget

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Context:
        with parsed(cls, data):
            return cls(
                tuple(Passage.from_dict(p) for p in data["passages"]),
                tuple((int(a), int(b)) for a, b in data["spans"]),
                data["prompt_tokens"], data["dropped"],
            )


@dataclass(frozen=True, slots=True)
class Citation(PlainNoun):
    """A character span ``[start, end)`` of the source document that is similar to a sentence.

    ``support`` in [0, 1] is how similar (``readers.citations``), not whether the sentence is true: that is the
    verifier's verdict.
    """

    passage_id: str
    document_id: str
    start: int
    end: int
    quote: str
    support: float


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer: its character span there, and the positions of its citations, none where no passage is
    similar.

    ``probability``: the verifier's, that what it cites entails it (0 for a sentence that cites nothing); None without a
    verifier.
    """

    start: int
    end: int
    citations: tuple[int, ...] = ()
    probability: float | None = None

    @property
    def entailed(self) -> bool | None:
        """The verdict; None where none was asked for."""
        return None if self.probability is None else self.probability >= ENTAILED


@dataclass(frozen=True, slots=True)
class Usage(PlainNoun):
    """Tokens of the prompt and of the completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


_NOTES = {"stop": "", "repetition": "", "filter": "cut by the server's filter", "empty": "the model wrote nothing"}
"""How an answer ends, by ``Answer.finish``."""


@dataclass(frozen=True, slots=True)
class Answer(PlainNoun):
    """An answer with its evidence.

    ``verifier`` names who judged the sentences (``rag.models.verification`` says how well it does that), None when
    nobody did. ``finish`` is
    why the model stopped: ``"stop"`` (it was done, or wrote a stop string), ``"length"`` (its tokens ran out),
    ``"repetition"`` (it began to repeat itself), ``"filter"`` (the server's filter ended it), ``"empty"`` (it was done
    and wrote nothing), another word of a remote
    server's; None when no model was asked, or the server did not say. An answer whose connection broke is none: that is
    an error.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    context: Context | None = None
    usage: Usage = Usage()
    sentences: tuple[Sentence, ...] = ()
    verifier: str | None = None
    finish: str | None = None

    @property
    def truncated(self) -> bool:
        """Whether the answer ends where its tokens ran out."""
        return self.finish == "length"

    @property
    def note(self) -> str:
        """What is to be said of how it ends, in a few words; empty for one that is whole."""
        if self.finish == "length":
            tokens = self.usage.completion_tokens
            return f"cut at {tokens} tokens" if tokens else "cut: its tokens ran out"
        return _NOTES.get(self.finish, f"ended by the server: {self.finish}") if self.finish else ""

    @property
    def unsupported(self) -> tuple[str, ...]:
        """The sentences that, by the verifier's verdict, are not entailed by what they cite; none without a
        verifier."""
        return tuple(self.text[s.start:s.end] for s in self.sentences if s.entailed is False)

    @property
    def uncited(self) -> tuple[str, ...]:
        """The sentences that no passage shown to the model is similar to."""
        return tuple(self.text[s.start:s.end] for s in self.sentences if not s.citations)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Answer:
        with parsed(cls, data):
            return cls(
                data["text"], tuple(Citation.from_dict(c) for c in data["citations"]),
                Context.from_dict(data["context"]) if data["context"] else None, Usage.from_dict(data["usage"]),
                tuple(Sentence(s["start"], s["end"], tuple(s["citations"]), s["probability"])
                      for s in data["sentences"]),
                data["verifier"], data["finish"],
            )

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return html(self)
