"""How published methods put passages and query to the model, where it is not as ICR does (``rag.lm.passages.Format``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..rag.lm.passages import Block, Format, shown

if TYPE_CHECKING:
    from ..rag.lm import LanguageModel
    from ..rag.nouns import Passage

INSTRUCTIONS = {
    "search": "Please find information that are relevant to the following query in the paragraphs above.",  # their grammar
    "qa": "Please answer the following question based on the information in the paragraphs above.",
}
Task = Literal["search", "qa"]


@dataclass(frozen=True, slots=True)
class CoReFormat(Format):
    """CoRe's: ``[document 1] text``, of which the marker is not scored."""

    marker: str = "[document {i}]"
    separator: str = "\n\n"

    def blocks(self, lm: LanguageModel, passages: Sequence[Passage]) -> list[Block]:
        texts = [" " + shown(passage, self.max_words) for passage in passages]
        markers = lm.tokens_of([self.marker.replace("{i}", str(i)) for i in range(1, len(texts) + 1)])
        end = lm.tokens(self.separator)
        return [Block(text, ids, end, start=tuple(marker))
                for text, ids, marker in zip(texts, lm.tokens_of(texts), markers, strict=True)]


@dataclass(frozen=True, slots=True)
class BlockRankFormat(Format):
    """BlockRank's: instruction and ``query`` first, then the passages with their numbers, then the query again and a begun answer.

    A passage's number tells nothing of the order in which it came: they are numbered from the shortest on. All of a block is scored,
    its line break too. The query is untrusted text in both places.
    """

    query: str = ""

    def prefix(self, lm: LanguageModel) -> list[int]:
        before, _ = self.turn or lm.turn()
        return lm.template_tokens(before) + lm.tokens(
            "You will be given a query and a list of documents. Each document will be formatted as ID: <id> | CONTENT: <content> | END ID: "
            "<id>. You need to read carefully and understand all of them and your goal is to find all document(s) from the list that can "
            f"help answer the query.\nQuery: {self.query}\n\nDocuments:")

    def blocks(self, lm: LanguageModel, passages: Sequence[Passage]) -> list[Block]:
        texts = [shown(passage, self.max_words).strip() for passage in passages]
        numbers = {p: i for i, p in enumerate(sorted(range(len(texts)), key=lambda p: (len(texts[p]), texts[p])))}
        marked = [f"\nID: {numbers[p]} | CONTENT: {text} | END ID: {numbers[p]}" for p, text in enumerate(texts)]
        return [Block(text, ids, []) for text, ids in zip(marked, lm.tokens_of(marked), strict=True)]

    def answer_begun(self, lm: LanguageModel) -> list[int]:
        """What follows the passages, up to the first token of the answer, ``[``."""
        asked = ("\n\n====== Now let's start! ======\nWhich document is most relevant to answer the query? Print out the ID of the "
                 f"document.\nQuery: {self.query}\nThe following document(s) can help answer the query:")
        return self.suffix(lm, asked) + lm.tokens("Final Answer: ") + lm.tokens("[")
