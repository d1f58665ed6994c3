"""Prompts under the block mask: passages as blocks that do not see each other, which a reranker may have prefilled
already.

The prompt begins as an ``AttentionReranker``'s does (``rag.lm.passages.Format``), so that its blocks are the reranker's
token for token. Whether they are reused or run again changes nothing but the time: a block's keys and values do not
depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..rag.lm import LanguageModel
from ..rag.lm.evidence import AttentionEvidence
from ..rag.lm.passages import Block, Format, shown
from ..rag.lm.prefill import Prefill, tiled
from ..rag.nouns import Passage, Ranking
from .prompt import PASSAGES, QUESTION, ReaderPrompt


@dataclass(frozen=True, slots=True)
class BlockPrompt:
    """``prompt`` as people read it; ``prefix``, ``blocks`` (best first) and ``suffix`` as the model does."""

    prompt: ReaderPrompt
    prefix: list[int]
    blocks: list[Block]
    suffix: list[int]

    @property
    def context(self) -> list[int]:
        return self.prefix + [token for block in self.blocks for token in block.ids]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each piece of ``prompt`` after its first, which is the prefix."""
        return [0, *(n for block in self.blocks for n in (len(block.scored), len(block.end))), len(self.suffix)]


def lay_out(lm: LanguageModel, form: Format, question: str, instruction: str, passages: Sequence[Passage],
            room: int) -> BlockPrompt:
    """The passages that fit ``room`` tokens, best first: whole, or the best one cut where not even that fits."""
    candidates = form.blocks(lm, passages)
    kept: list[tuple[Passage, Block]] = []
    left = room
    for passage, block in zip(passages, candidates, strict=True):
        if not kept and len(block.ids) > room:
            block = block.shortened(lm, max(1, room - len(block.end)))
        if len(block.ids) <= left:
            kept.append((_as_shown(passage, block, form), block))
            left -= len(block.ids)
    after = instruction.partition(PASSAGES)[2].replace(QUESTION, question)
    pieces = ["", *(piece for _, block in kept for piece in (block.text, form.separator)), after]
    prompt = ReaderPrompt(tuple(pieces), tuple(passage for passage, _ in kept), len(passages) - len(kept))
    return BlockPrompt(prompt, form.prefix(lm), [block for _, block in kept], form.suffix(lm, after))


def _as_shown(passage: Passage, block: Block, form: Format) -> Passage:
    """``passage`` with the part of its text that stands in ``block``."""
    text = block.text[len(form.marker):]
    beginning = len(passage.full_text) - len(passage.text)
    if len(shown(passage, form.max_words)) == len(passage.full_text) and not block.cut:
        return passage
    kept = text[beginning:]
    return replace(passage, text=kept, end=passage.start + len(kept))


def prefilled(lm: LanguageModel, laid: BlockPrompt, ranking: Ranking) -> tuple[Prefill, int]:
    """The keys and values of the prompt's context, and how many of its tokens the ranking's reading saved."""
    found = _reused(lm, laid, ranking)
    if found is not None:
        return found, len(found.plan.ids)
    blocks = tiled(len(laid.prefix), [len(block.ids) for block in laid.blocks])
    return lm.prefill(laid.context, blocks=blocks, mask="block", positions="shared"), 0


def _reused(lm: LanguageModel, laid: BlockPrompt, ranking: Ranking) -> Prefill | None:
    """What the reranker prefilled, without the blocks that are not wanted; None when it is not this model's, or lacks
    one."""
    evidence = ranking.evidence.get("attention")
    if not isinstance(evidence, AttentionEvidence) or evidence.prefill is None or evidence.model != lm.info.name:
        return None
    held = evidence.prefill
    numbers = {held.block_ids(b): b for b in range(len(held.plan.blocks))}
    wanted = [numbers.get(tuple(block.ids)) for block in laid.blocks]
    if list(held.plan.ids[:held.plan.prefix]) != laid.prefix or not held.complete:
        return None
    return None if any(b is None for b in wanted) else held.keep([b for b in wanted if b is not None])
