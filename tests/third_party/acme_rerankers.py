"""A reranker of somebody else, in the table of their distribution."""

import re

from regard import Batch, Query, Ranking, Stage
from regard.rag.dag.scope import Scope
from regard.rag.dag.stage import Need
from regard.rag.models.encoding import Encoder, OpenEncoder
from regard.rag.parts import Count

RERANKERS = {"BestSentence": "acme_rerankers:BestSentence"}


class BestSentence(Stage):
    """A passage is as good as its best sentence: by the cosine with the question."""

    needs = frozenset({Need.TEXT})

    encoder: Encoder = "minilm"
    depth: Count = 20

    def open(self, scope: Scope) -> OpenEncoder:
        return scope.open(self.encoder)

    def run(self, encoder: OpenEncoder, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        return Batch(self.reranked(encoder, *one) for one in zip(queries, rankings, strict=True))

    def reranked(self, encoder: OpenEncoder, query: Query, ranking: Ranking) -> Ranking:
        best = ranking.top(self.depth)
        (question,) = encoder.encode_queries([query.text])
        sentences = [re.split(r"(?<=[.!?])\s+", passage.full_text) for passage in best.passages()]
        return best.rescore([max(encoder.encode_passages(of_one) @ question) for of_one in sentences], "cosine")
