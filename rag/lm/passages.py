"""How passages stand in a language model's prompt, as token ids: a prefix, one block for each passage, and suffixes
after them.

Rerankers, the reader and the cache of passages' keys and values build their prompts here, so that a block means the
same to all. Every piece is tokenised once, apart from the others; so each passage's span is known by construction and
never searched for.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..errors import BudgetError
from ..nouns import Passage, Ranking
from ..text import Span, sentence_spans
from .prefill import Mask, Positions, Prefill, tiled

if TYPE_CHECKING:
    from .engine import LanguageModel

INTRODUCTION = "Here are some paragraphs:"
CONSTANT_MARKER = "[1] "
"""Stands before every passage where the order must not show."""

LEAST_PASSAGE_TOKENS = 16
"""Passages are not cut shorter than this to fit the window."""

TOKENS_A_WORD = 3
"""A passage at shared positions has room for ``max_words`` times so many. Of three English collections, the longest
needs 2.4."""

ROOM_FOR_QUERY = 512
"""Tokens of the window that passages at shared positions leave to instruction and query, however short these are."""

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Format:
    """``marker`` stands before a passage (``{i}`` in it is its number in the prompt, from 1), ``separator`` after the
    introduction and after each passage; a passage (title and text) is cut after ``max_words`` words. ``turn`` is the
    text before and after the content of the user's turn, instead of the model's chat template; special tokens in it
    count.
    """

    marker: str = CONSTANT_MARKER
    separator: str = "\n"
    max_words: int = 300
    introduction: str = INTRODUCTION
    turn: tuple[str, str] | None = None

    def prefix(self, lm: LanguageModel) -> list[int]:
        before, _ = self.turn or lm.turn()
        return lm.template_tokens(before + self.introduction + self.separator)

    def suffix(self, lm: LanguageModel, text: str) -> list[int]:
        """What follows the passages: untrusted ``text``, and the end of the turn up to where the answer begins."""
        return lm.tokens(text) + self.end_of_turn(lm)

    def end_of_turn(self, lm: LanguageModel) -> list[int]:
        _, after = self.turn or lm.turn()
        return lm.template_tokens(after)

    def blocks(self, lm: LanguageModel, passages: Sequence[Passage]) -> list[Block]:
        """``passages`` in prompt order."""
        texts = [shown(passage, self.max_words) for passage in passages]
        marked = [self.marker.replace("{i}", str(i)) + text for i, text in enumerate(texts, start=1)]
        end = lm.tokens(self.separator)
        return [Block(text, ids, end) for text, ids in zip(marked, lm.tokens_of(marked), strict=True)]


@dataclass(frozen=True, slots=True)
class Block:
    """A passage in a prompt: its ``text`` (marked, unless the marker stands in ``start``), the tokens of that, which
    are scored, and those around them that are not: ``start``, and the separator ``end``."""

    text: str
    scored: list[int]
    end: list[int]
    cut: bool = False
    start: tuple[int, ...] = ()

    @property
    def ids(self) -> list[int]:
        return [*self.start, *self.scored, *self.end]

    def shortened(self, lm: LanguageModel, limit: int) -> Block:
        """At most ``limit`` scored tokens: up to the last sentence end that fits, or, if not even one sentence fits,
        that many tokens."""
        if len(self.scored) <= limit:
            return self
        ends = [end for _, end in sentence_spans(self.text)]
        fitting = bisect_right(ends, limit, key=lambda end: len(lm.tokens(self.text[:end])))
        if not fitting:
            return replace(self, scored=self.scored[:limit], cut=True)
        text = self.text[:ends[fitting - 1]]
        return replace(self, text=text, scored=lm.tokens(text), cut=True)


class StoredPrefills(Protocol):
    """Passages' keys and values that were computed once, for prompts of one :class:`Format`.

    ``fingerprint`` names what was computed: the model's weights, the prompt, the layers, the bits.
    """

    fingerprint: str

    def prefill(self, ranking: Ranking, device: str) -> tuple[Prefill, list[Span]]:
        """The context of the ranking's passages on ``device``, shortest first, and their scored spans in it, in the
        ranking's order."""


@runtime_checkable
class SharesPrefill(Protocol):
    """A stage whose rankings carry what it prefilled: the first ``share`` passages, in prompts of ``form``, by model
    ``lm``."""

    lm: str
    share: int

    @property
    def form(self) -> Format: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A context (token ids, or what is prefilled of them) and suffixes that each follow it.

    ``blocks`` tile the context after its prefix; ``spans`` are the passages' scored tokens in it, without separators,
    in the ranking's order; a passage that is not in this prompt has an empty one. ``after`` is the position where the
    suffixes begin; None: right behind the context. ``rows`` are the rows of each suffix that count, None all of them.
    ``cut`` counts the passages that were shortened to fit.
    """

    context: list[int] | Prefill
    blocks: list[Span]
    spans: list[Span]
    suffixes: list[list[int]]
    mask: Mask
    positions: Positions
    after: int | None = None
    cut: int = 0
    rows: list[Span] | None = None

    @property
    def ids(self) -> Sequence[int]:
        """The context's tokens."""
        return self.context.plan.ids if isinstance(self.context, Prefill) else self.context

    @property
    def tokens(self) -> int:
        """Tokens that go through the model; what the suffixes begin with in common counts once for each."""
        if not self.spans:
            return 0
        return (0 if isinstance(self.context, Prefill) else len(self.context)) + sum(map(len, self.suffixes))


def lay_out(
    lm: LanguageModel, form: Format, passages: Sequence[Passage], order: Sequence[int] | None,
    suffixes: list[list[int]],
    mask: Mask, positions: Positions, *, where: str, after: int | None = None,
) -> Prompt:
    """The prompt with ``passages`` in ``order`` (positions in ``passages``, first in the prompt first; those left out
    are not in it).

    ``order`` None, for blocks at shared positions, is one that does not depend on how ``passages`` are ordered:
    shortest first. The same passages then go through the same arithmetic, and score the same to the last bit. At shared
    positions the suffixes stand at position ``after``, by default :func:`suffix_position`. Raises ``BudgetError``.
    """
    prefix = form.prefix(lm)
    blocks = form.blocks(lm, passages if order is None else [passages[p] for p in order])
    if after is None and positions == "shared":
        after = suffix_position(lm, form, suffixes)
    room = (lm.window - max(map(len, suffixes)) if after is None else after) - len(prefix)
    blocks = _fitted(lm, blocks, room, positions, where)
    if order is None:
        order = sorted(range(len(blocks)), key=lambda b: (len(blocks[b].scored), blocks[b].scored))
        blocks = [blocks[b] for b in order]
    spans = [(0, 0)] * len(passages)
    laid = tiled(len(prefix), [len(block.ids) for block in blocks])
    for p, block, (start, _) in zip(order, blocks, laid, strict=True):
        start += len(block.start)
        spans[p] = (start, start + len(block.scored))
    ids = prefix + [token for block in blocks for token in block.ids]
    return Prompt(ids, laid, spans, suffixes, mask, positions, after, sum(block.cut for block in blocks))


def suffix_position(lm: LanguageModel, form: Format, suffixes: Sequence[Sequence[int]]) -> int:
    """Where suffixes begin behind blocks at shared positions: at a distance from the prefix that no passage changes.

    If they followed the longest block, one long candidate would move them away from all the others. The blocks have the
    room up to there: ``TOKENS_A_WORD`` for each of ``max_words``, unless the window has less (``ROOM_FOR_QUERY`` of it,
    at most half, stays free, and all of the longest suffix); and half of a sliding window, so that every layer sees
    passages whole.
    """
    prefix = len(form.prefix(lm))
    window = lm.steady_window
    free = max([min(ROOM_FOR_QUERY, window // 2), *map(len, suffixes)])
    room = min(max(LEAST_PASSAGE_TOKENS, form.max_words) * TOKENS_A_WORD, window - prefix - free)
    return prefix + (room if lm.sliding_window is None else min(room, lm.sliding_window // 2))


def _fitted(lm: LanguageModel, blocks: list[Block], room: int, positions: Positions, where: str) -> list[Block]:
    """Blocks that fit ``room`` positions: side by side when shared; else the longest are shortened until all fit, one
    after the other."""
    lengths = [len(block.scored) for block in blocks]
    around = [len(block.ids) - len(block.scored) for block in blocks]
    limit = room - max(around, default=0) if positions == "shared" else longest_that_fits(lengths, room - sum(around))
    if limit < LEAST_PASSAGE_TOKENS and any(length > limit for length in lengths):
        raise BudgetError(f"{len(blocks)} passages and the query do not fit the {lm.window} tokens of {lm.info.name!r}",
                          where=where,
                          hint="lower depth, shorten the query, or take a model of a longer window")
    return [block.shortened(lm, limit) for block in blocks]


def longest_that_fits(lengths: Sequence[int], room: int) -> int:
    """The greatest length to which all ``lengths`` can be cut so that their sum fits ``room`` (at least 0)."""
    left = room
    for done, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - done)
        if length > share:
            return max(share, 0)
        left -= length
    return max(lengths, default=0)


def shown(passage: Passage, max_words: int) -> str:
    """Title and text, up to the end of word ``max_words``."""
    text = passage.full_text
    last = next(islice(_WORD.finditer(text), max_words - 1, None), None)
    return text if last is None else text[:last.end()]
