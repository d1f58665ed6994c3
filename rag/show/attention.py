"""The attention behind a ranking, for people: each passage's tokens as a language model saw them, marked by the mass
that they received."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from ..errors import StageError
from ..files import write_text
from ..markup import amount, escape, one_line, score, shorten
from ..nouns import Hit, Ranking, TokenEvidence
from .display import chips, fragment, heading, page, plural
from .style import ATTENTION

STEPS = (0.1, 0.25, 0.4, 0.6, 0.8)
"""Where the levels of marking begin, as shares of the largest mass; one for each of ``style.HEAT``."""

_MARKER = re.compile(r"\[\d+\] ?")  # what every ``Format.marker`` looks like once its number stands in it
_MARKER_TOKENS = 16  # enough for any marker
_STRONGEST = 6  # tokens named for each passage in a terminal


@dataclass(frozen=True, slots=True)
class MarkedToken:
    """A piece of text and the mass of the tokens that make it (several, where a character takes several)."""

    text: str
    mass: float


@dataclass(frozen=True, slots=True)
class MarkedPassage:
    """A hit as the prompt had it. ``marker`` is the prompt's, ``tokens`` are the passage's; both are empty if it was
    not in it.

    ``mass`` is the sum over both, as the reranker sums it before it filters; ``unread`` counts the characters that were
    cut off.
    """

    hit: Hit
    marker: tuple[MarkedToken, ...]
    tokens: tuple[MarkedToken, ...]
    mass: float
    unread: int


@dataclass(frozen=True, slots=True, repr=False)
class AttentionMap:
    """The first passages of a ranking with what carried their scores: as HTML in a notebook, as a page by ``save``, as
    text elsewhere.

    ``largest`` is the mass that all marking is relative to: the largest positive one of a passage's token in the whole
    ranking.
    """

    model: str
    ranking: Ranking
    passages: tuple[MarkedPassage, ...]
    largest: float

    def _repr_html_(self) -> str:
        return fragment(self._body(), ATTENTION)

    def save(self, path: str | Path) -> Path:
        """Write the view as one self-contained HTML page. Raises ``StorageError`` when the file cannot be written."""
        target = Path(path)
        title = f"Attention of {self.model}"
        body = f"<header><h1>{escape(one_line(title))}</h1></header>\n<main>{self._body()}</main>"
        write_text(target, page(title, body, ATTENTION))
        return target

    def __str__(self) -> str:
        """The strongest tokens of each passage, for a terminal."""
        lines = [self._caption(), *(_line(passage) for passage in self.passages)]
        return "\n".join([*lines, rest] if (rest := self._rest()) else lines)

    __repr__ = __str__

    def _body(self) -> str:
        rest = self._rest()
        return "".join((
            f'<div class="rg-quiet">{escape(self._caption())}</div>',
            self._legend(),
            *(self._passage(passage) for passage in self.passages),
            f'<p class="rg-quiet">{escape(rest)}</p>' if rest else "",
        ))

    def _caption(self) -> str:
        if not len(self.ranking):
            return "No passages."
        passages = plural(len(self.ranking), "passage")
        said = f"{passages} · attention of {one_line(self.model)} · score: {self.ranking.space}"
        last = next(reversed(self.ranking.steps), None)
        # a stage that runs alone writes no history
        scored = last is not None and last.scores.tolist() == self.ranking.scores.tolist()
        return f"{said}, from stage {one_line(last.stage)}" if last is not None and scored else said

    def _rest(self) -> str:
        left = len(self.ranking) - len(self.passages)
        if left <= 0:
            return ""
        first, last = float(self.ranking.scores[len(self.passages)]), float(self.ranking.scores[-1])
        return f"and {plural(left, 'more passage')}, scores {score(first)} to {score(last)}"

    def _legend(self) -> str:
        if not self.largest:
            return ""
        named = [*(f"{step:.0%}" for step in STEPS), ""]
        ranges = [f"{low} – {high}" if high else f"from {low}" for low, high in pairwise(named)]
        more = "".join(f'<span><span class="rg-up{level}">{text}</span></span>' for level, text in enumerate(ranges, 1))
        less = '<span><span class="rg-down3">negative</span> the content-free query gave the token more</span>'
        marker = '<span><span class="rg-prompt">[1]</span> the prompt’s, not the passage’s</span>'
        return (f'<div class="rg-quiet rg-legend">A token’s attention mass as a share of this ranking’s largest, '
                f'{self.largest:.3g}: '
                f'{more}{less if self._any_negative() else ""}{marker}</div>'
                '<div class="rg-quiet">A score need not be its tokens’ sum: a policy may leave low outliers out, and '
                'may add the first '
                "stage’s score.</div>")

    def _any_negative(self) -> bool:
        return any(token.mass < 0 and self._level(token.mass) for passage in self.passages for token in passage.tokens)

    def _level(self, mass: float) -> int:
        """0 for a token that is not marked, else 1 to 5."""
        return bisect_right(STEPS, abs(mass) / self.largest) if self.largest else 0

    def _passage(self, passage: MarkedPassage) -> str:
        given = f"attention mass {_signed(passage.mass)}"
        about = given if passage.marker or passage.tokens else "not read by the model"
        head = (f"<div><b>{passage.hit.rank}</b> · score <b>{score(passage.hit.score)}</b> "
                f'<span class="rg-quiet">· {about}</span></div>')
        return (f'<div class="rg-passage">{head}<div>{heading(passage.hit.passage)}</div>{self._text(passage)}'
                f"{chips(passage.hit.history)}</div>")

    def _text(self, passage: MarkedPassage) -> str:
        if not passage.tokens and not passage.marker:
            return ""
        marks = "".join(f'<span class="rg-prompt" title="of the prompt: '
                        f'{_signed(token.mass)}">{escape(token.text)}</span>'
                        for token in _joined(passage.marker))
        cut = plural(passage.unread, "character")
        unread = f'<div class="rg-quiet">cut off: the last {cut}</div>' if passage.unread else ""
        text = "".join(self._token(token) for token in passage.tokens)
        return f'<div class="rg-text rg-full rg-tokens" dir="auto">{marks}{text}</div>{unread}'

    def _token(self, token: MarkedToken) -> str:
        """Space before a word stays outside the mark; a token of nothing but space gets a sign to carry its mark."""
        word = token.text.lstrip()
        space = token.text[:len(token.text) - len(word)]
        level = self._level(token.mass)
        share = f" · {token.mass / self.largest:.0%}" if self.largest else ""
        tip = f'title="{_signed(token.mass)}{share}"'
        css = f'class="rg-{"up" if token.mass > 0 else "down"}{level}" ' if level else ""
        if word:
            return f"{escape(space)}<span {css}{tip}>{escape(word)}</span>"
        return f"<span {css}{tip}>{_visible(space)}</span>{escape(space)}" if level else escape(space)


def attention_map(ranking: Ranking, limit: int = 10) -> AttentionMap:
    """The map of the first ``limit`` passages. Raises ``StageError`` when ``ranking`` has no evidence of attention."""
    if not len(ranking):
        return AttentionMap("", ranking, (), 0.0)
    evidence = ranking.evidence.get("attention")
    if not isinstance(evidence, TokenEvidence):
        raise StageError("nothing is known of the attention behind this ranking", where=repr(ranking),
                         hint="rank with AttentionReranker; what it read stays in memory, so a ranking out of a file "
                              "or a stage cache "
                              "has none, nor has one that another stage made anew")
    shown = ranking[:max(0, limit)]
    passages = tuple(_marked(evidence, hit, int(row)) for hit, row in zip(shown, shown.rows, strict=True))
    return AttentionMap(evidence.model, ranking, passages, _largest(evidence, ranking.rows.tolist()))


def _marked(evidence: TokenEvidence, hit: Hit, row: int) -> MarkedPassage:
    pieces = evidence.pieces(row)
    cut = _marker_tokens([text for text, _ in pieces[:_MARKER_TOKENS]])
    tokens = _whole(pieces[cut:])
    text = "".join(token.text for token in tokens).strip()  # the marker's space may be part of the first token
    whole = hit.passage.full_text.rstrip()
    unread = len(whole) - len(text) if text and whole.startswith(text) else 0
    return MarkedPassage(hit, _whole(pieces[:cut]), tokens, sum(mass for _, mass in pieces), unread)


def _marker_tokens(pieces: Sequence[str]) -> int:
    """How many of the first ``pieces`` make the marker; one that also begins the passage is the passage's."""
    match = _MARKER.match("".join(pieces))
    if match is None:
        return 0
    ends = accumulate(map(len, pieces))
    return max((i for i, (piece, end) in enumerate(zip(pieces, ends, strict=True), 1) if piece and end <= match.end()),
               default=0)


def _largest(evidence: TokenEvidence, rows: Iterable[int]) -> float:
    """The largest mass of a passage's token; of the magnitudes where none is positive."""
    most, least = 0.0, 0.0
    for pieces in map(evidence.pieces, rows):
        cut = _marker_tokens([text for text, _ in pieces[:_MARKER_TOKENS]])
        masses = [mass for _, mass in pieces[cut:]]
        most, least = max([most, *masses]), min([least, *masses])
    return most or -least


def _whole(pieces: Iterable[tuple[str, float]]) -> tuple[MarkedToken, ...]:
    """A character's first bytes have no text: their mass joins that of the token which completes it."""
    tokens, held = [], 0.0
    for text, mass in pieces:
        held += mass
        if text:
            tokens.append(MarkedToken(text, held))
            held = 0.0
    return tuple(tokens)


def _joined(marker: Sequence[MarkedToken]) -> list[MarkedToken]:
    text = "".join(token.text for token in marker).strip()
    return [MarkedToken(text, sum(token.mass for token in marker))] if marker else []


def _line(passage: MarkedPassage) -> str:
    strongest = sorted(passage.tokens, key=lambda token: -abs(token.mass))[:_STRONGEST]
    named = (f"{one_line(token.text) or _visible(token.text)} {_signed(token.mass)}" for token in strongest)
    words = "  ".join(named) or "not read"
    name = shorten(one_line(passage.hit.passage.title or passage.hit.passage.id), 32)
    return f"{amount(passage.hit.rank):>3}  {score(passage.hit.score):>8}  {name}:  {words}"


def _visible(space: str) -> str:
    return "↵" if "\n" in space else "␣"


def _signed(mass: float) -> str:
    return f"{mass:+.3g}"
