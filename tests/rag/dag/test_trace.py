"""What stages record: counts add up, other notes keep their last value, and nothing is written outside a run."""

from __future__ import annotations

from regard.rag import Batch, Pipeline, Query, Stage
from regard.rag.dag.trace import Running, StageTrace, record, tracing


def test_counts_add_up_and_other_notes_keep_their_last_value() -> None:
    with tracing(Running(StageTrace("s", "S"))) as now:
        for i in (1, 2, 4):
            record(tokens_in=i, tokens_out=10 * i, cut=i, path=f"p{i}", share=i / 2, whole=i > 1)
        record(cut=0)
    record(cut=100, tokens_in=100)
    entry = now.entry
    assert (entry.tokens_in, entry.tokens_out) == (7, 70)
    assert entry.notes == {"cut": 7, "path": "p4", "share": 2.0, "whole": True}


def test_a_stage_that_records_for_each_query_of_a_batch_counts_them_all() -> None:
    class Counting(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Query]:
            for query in queries:
                record(words=len(query.text.split()), last=query.text)
            return queries

    p = Pipeline()
    p.output(out=p.add(Counting(), p.input(Query)))
    assert p.run(["a", "a b", "a b c"]).trace["counting"].notes == {"words": 6, "last": "a b c"}
