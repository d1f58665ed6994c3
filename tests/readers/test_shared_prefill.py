"""One prefill for reranker and reader: the same answer as a fresh prefill, tokens saved, and reasons where it cannot
be."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from regard.rag.dag.pipeline import Pipeline
from regard.rag.dag.scope import Scope
from regard.rag.dag.trace import Running, StageTrace, tracing
from regard.rag.nouns import Batch, Passage, PassageList, Query, Ranking
from regard.readers import Reader
from regard.readers.base import NOTHING_FOUND
from regard.readers.blocks import lay_out, prefilled
from regard.readers.reader import FORM
from regard.rerankers import ICR, AttentionReranker, BlockICR

FACTS = {
    "Eiffel Tower": "The Eiffel Tower is 330 metres tall. It was completed in 1889.",
    "Flea": "The life cycle of a flea lasts about 100 days. Fleas lay eggs on cats and dogs.",
    "Bread": "Bread is baked in an oven at 220 degrees for forty minutes.",
    "Rhine": "The Rhine is a river of 1,230 kilometres. It flows through Basel and Cologne.",
}
QUESTIONS = ["How tall is the Eiffel Tower?", "How long does a flea live?", "How is bread baked?",
             "Through which cities does the Rhine flow?"]


def candidates() -> Ranking:
    store = PassageList([Passage(n, n, text, 0, len(text), n) for n, text in FACTS.items()])
    return Ranking.ranked(range(len(FACTS)), [1.0 - i / 10 for i in range(len(FACTS))], "bm25", store)


@pytest.fixture(scope="module")
def stages():
    reranker = AttentionReranker(policy=BlockICR(), share=3, device="cpu")
    reader = Reader(mask="block", depth=3, max_new_tokens=24, device="cpu")
    with Scope() as scope:
        yield Open(reranker, scope.open(reranker)), Open(reader, scope.open(reader))


class Open(NamedTuple):
    """A stage with what it has opened."""

    stage: Any
    held: Any

    def run(self, question: str, ranking: Ranking) -> Any:
        (given,) = self.stage.run(self.held, Batch([Query(question)]), Batch([ranking]))
        return given


def read(reader: Open, question: str, ranking: Ranking):
    entry = StageTrace("read", "Reader")
    with tracing(Running(entry)):
        answer = reader.run(question, ranking)
    return answer, entry


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_that_of_a_fresh_prefill_and_the_tokens_are_saved(stages, question):
    reranker, reader = stages
    ranking = reranker.run(question, candidates())
    shared, saved = read(reader, question, ranking)
    # a ranking from a file carries no prefill
    fresh, unsaved = read(reader, question, Ranking.from_dict(ranking.to_dict()))
    assert shared == fresh
    assert shared.text
    context = sum(end - start for start, end in shared.context.spans)
    assert saved.notes["prefill_saved"] > context > 0
    assert unsaved.notes["prefill_saved"] == 0
    assert saved.tokens_in + saved.notes["prefill_saved"] == unsaved.tokens_in == shared.usage.prompt_tokens
    assert [p.id for p in shared.context.passages] == [hit.passage.id for hit in ranking.top(3)]


def test_what_is_handed_on_is_a_fresh_prefill_to_1e_5(stages):
    reranker, reader = stages
    lm = reader.held.lm
    ranking = reranker.run(QUESTIONS[0], candidates())
    laid = lay_out(lm, FORM, QUESTIONS[0], reader.stage.instruction, ranking.top(3).passages(), 1000)
    shared, saved = prefilled(lm, laid, ranking)
    fresh, none = prefilled(lm, laid, Ranking.from_dict(ranking.to_dict()))
    assert (saved, none) == (len(laid.context), 0)
    assert shared.plan == fresh.plan
    for mine, theirs in zip((*shared.keys, *shared.values), (*fresh.keys, *fresh.values), strict=True):
        assert torch.linalg.norm(mine - theirs) < 1e-5 * torch.linalg.norm(theirs)


def test_only_what_was_carried_is_reused(stages):
    reranker, _ = stages
    ranking = reranker.run(QUESTIONS[1], candidates())
    assert len(ranking.evidence["attention"].prefill.plan.blocks) == 3
    deep = Reader(mask="block", depth=4, max_new_tokens=1, device="cpu")
    with Scope() as scope:
        _, entry = read(Open(deep, scope.open(deep)), QUESTIONS[1], ranking)
    assert entry.notes["prefill_saved"] == 0


def test_a_budget_keeps_the_best_passages_whole(stages):
    _, reader = stages
    lm = reader.held.lm
    sizes = [len(block.ids) for block in FORM.blocks(lm, candidates().passages())]
    laid = lay_out(lm, FORM, "q", reader.stage.instruction, candidates().passages(), sizes[0] + min(sizes[1:]))
    assert laid.prompt.passages[0].id == "Eiffel Tower"
    assert (len(laid.blocks), laid.prompt.dropped) == (2, 2)
    tight = lay_out(lm, FORM, "q", reader.stage.instruction, candidates().passages(), 20)
    (passage,) = tight.prompt.passages
    assert FACTS["Eiffel Tower"].startswith(passage.text)
    assert 0 < len(passage.text) < len(FACTS["Eiffel Tower"])
    assert passage.end == len(passage.text)


@pytest.mark.parametrize(("reranker", "reader", "why"), [
    (AttentionReranker(share=3), Reader(depth=3), "causal mask"),
    (AttentionReranker(), Reader(depth=3, mask="block"), "passes nothing on"),
    (AttentionReranker(share=3), Reader(depth=3, mask="block", lm="HuggingFaceTB/other"), "model 'smollm2'"),
    (AttentionReranker(share=3, max_words=50), Reader(depth=3, mask="block"), "otherwise in the prompt"),
    (AttentionReranker(share=2), Reader(depth=3, mask="block"), "passes on 2 passages, and 3 are read"),
    (AttentionReranker(share=3), Reader(depth=3, mask="block"), None),
    (AttentionReranker(policy=ICR()), Reader(depth=3), None),
])
def test_a_pipeline_that_cannot_share_says_why(reranker, reader, why):
    pipeline = Pipeline("shared")
    query, hits = pipeline.input(Query), pipeline.input(Ranking)
    pipeline.output(answer=pipeline.add(reader, query, pipeline.add(reranker, query, hits)))
    found = [p for p in pipeline.check() if "cannot go on from" in p.what]
    assert not found if why is None else why in found[0].what
    assert all(p.hint and not p.fatal for p in found)


def test_a_ranking_of_nothing_is_not_read(stages):
    _, reader = stages
    answer, entry = read(reader, "Anything?", candidates()[:0])
    assert answer.text == NOTHING_FOUND
    assert entry.tokens_in == 0
