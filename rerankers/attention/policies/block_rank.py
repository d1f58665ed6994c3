"""BlockRank's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from ....rag.lm.heads import Heads
from ....rag.lm.passages import Block, Format, shown
from ....rag.parts import Card, Count
from ....rag.text import Span
from .order_free import OrderFree
from .policy import Lay, Scored, Task

if TYPE_CHECKING:
    from ....rag.lm import LanguageModel
    from ....rag.nouns import Passage


class BlockRank(OrderFree):
    """BlockRank's score: how the last two tokens share their attention out.

    - Prompt: the instruction with the query, then passages as ``ID: i | CONTENT: ... | END ID: i``, then the query
      again and the answer begun, ``Final Answer: [``.
    - Rows: the prefilled ``[`` and the token before it. Heads: all of one layer, at the share ``depth`` of the layers
      (20 of 32, from 0).
    - Score: the softmax over passage tokens only, summed over a passage's, mean over rows and heads (the authors divide
      by .05, which changes no order). No calibration, no filter.
    - Mask and positions: a passage sees the instruction block and itself, all begin where that ends; the query's block
      stands at ``position``, None: at 16,384, or half of the window where that is less.

    The model is not trained for it, which in the paper it is: expect little of one that is not. ``separator`` has no
    effect. Passages depend on the query, so they cannot come from a ``cache`` or be shared with a reader.
    """

    card = Card(
        "Gupta et al.", 2025, arxiv="2510.05396", code="nilesh2797/BlockRank",
        note="passages are numbered from the shortest on (theirs are shuffled by a seed), cut by max_words (theirs "
             "after 384 tokens), and begin with \"title, line break\"; the model is not trained for it")

    calibration: None = None
    deviations: None = None
    depth: Annotated[float, Field(ge=0, lt=1)] = 0.625
    position: Count | None = None

    query_first: ClassVar[bool] = True

    def heads_in(self, lm: str) -> Heads:
        from ....rag.lm import describe

        info = describe(lm)
        return [(int(self.depth * info.layers), head) for head in range(info.heads)]

    def form(self, lm: str, query: str, max_words: int = 300, turn: tuple[str, str] | None = None) -> Format:
        return BlockRankFormat(max_words=max_words, turn=turn, query=query)

    def suffixes(self, lm: LanguageModel, form: Format, task: Task, query: str) -> list[list[int]]:
        assert isinstance(form, BlockRankFormat)
        return [form.answer_begun(lm)]

    def rows(self, lm: LanguageModel, form: Format, suffixes: Sequence[Sequence[int]]) -> list[Span] | None:
        return [(len(suffix) - 2, len(suffix)) for suffix in suffixes]

    def suffix_at(self, lm: LanguageModel) -> int | None:
        return self.position or min(16_384, lm.window // 2)

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        prompt = lay(None)
        heads = self.heads_in(lm.info.name) or []
        layer = heads[0][0]
        context = prompt.context if not isinstance(prompt.context, list) else lm.prefill(
            prompt.context, blocks=prompt.blocks, mask=prompt.mask, positions=prompt.positions, last=layer)
        shares = np.zeros(n)
        for row in range(*(prompt.rows or [])[0]):  # one row a time: each has its own softmax
            paid = lm.head_scores(context, prompt.suffixes, prompt.spans, layers=layer + 1, query_rows=[(row, row + 1)],
                                  after=prompt.after)[layer]
            total = np.sort(paid.astype(np.float64), axis=1).sum(axis=1, keepdims=True)  # sorted: the same in any order
            shares += (paid / total).mean(axis=0) / 2
        mass = lm.attention_mass(context, prompt.suffixes, heads=heads, query_rows=prompt.rows, after=prompt.after)
        return Scored(shares.astype(np.float32), mass, prompt)


@dataclass(frozen=True, slots=True)
class BlockRankFormat(Format):
    """BlockRank's: instruction and ``query`` first, then the passages with their numbers, then the query again and a
    begun answer.

    A passage's number tells nothing of the order in which it came: they are numbered from the shortest on. All of a
    block is scored, its line break too. The query is untrusted text in both places.
    """

    query: str = ""

    def prefix(self, lm: LanguageModel) -> list[int]:
        before, _ = self.turn or lm.turn()
        return lm.template_tokens(before) + lm.tokens(
            "You will be given a query and a list of documents. Each document will be formatted as ID: <id> | CONTENT: "
            "<content> | END ID: <id>. You need to read carefully and understand all of them and your goal is to "
            f"find all document(s) from the list that can help answer the query.\nQuery: {self.query}\n\nDocuments:")

    def blocks(self, lm: LanguageModel, passages: Sequence[Passage]) -> list[Block]:
        texts = [shown(passage, self.max_words).strip() for passage in passages]
        numbers = {p: i for i, p in enumerate(sorted(range(len(texts)), key=lambda p: (len(texts[p]), texts[p])))}
        marked = [f"\nID: {numbers[p]} | CONTENT: {text} | END ID: {numbers[p]}" for p, text in enumerate(texts)]
        return [Block(text, ids, []) for text, ids in zip(marked, lm.tokens_of(marked), strict=True)]

    def answer_begun(self, lm: LanguageModel) -> list[int]:
        """What follows the passages, up to the first token of the answer, ``[``."""
        asked = ("\n\n====== Now let's start! ======\nWhich document is most relevant to answer the query? Print out "
                 f"the ID of the document.\nQuery: {self.query}\nThe following document(s) can help answer the query:")
        return self.suffix(lm, asked) + lm.tokens("Final Answer: ") + lm.tokens("[")
