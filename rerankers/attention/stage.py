"""Passages ranked by the attention that a language model's reading of the query pays to them; how, a policy says."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from ...rag.dag.scope import Scope, shared
from ...rag.dag.stage import Need, Problem, Stage
from ...rag.dag.stores import open_prefills
from ...rag.dag.trace import record, record_kernels
from ...rag.errors import BudgetError, ConfigError, RegardError
from ...rag.lm import LanguageModel, describe
from ...rag.lm.evidence import AttentionEvidence
from ...rag.lm.heads import deepest
from ...rag.lm.passages import LEAST_PASSAGE_TOKENS, Format, Prompt, suffix_position
from ...rag.models import resolve, weights_hash
from ...rag.models.chosen import hub
from ...rag.nouns import Batch, Query, Ranking, Scores, ScoreSpace
from ...rag.parts import Count
from ...rag.trust import Connection
from .policies import BlockICR, Policy
from .policies.policy import Lay, Order, Task, prompt_of
from .policies.scores import fused

if TYPE_CHECKING:
    from ...rag.lm.passages import StoredPrefills


class OpenReranker(NamedTuple):
    """The model, and the stored keys and values, if the stage takes those."""

    model: LanguageModel
    stored: StoredPrefills | None


class AttentionReranker(Stage):
    """Reranks each ranking's first ``depth`` hits by the attention of language model ``lm``, as ``policy`` says.

    The prompt is one user turn: the passages, an instruction, the query (``CoRe`` and ``BlockRank`` have their own).
    - ``policy``: a policy (``BlockICR(fusion=None)``), a text (``"ICR"``, ``"icr:window=20"``), or a mapping
      (``{"part": "ICR", "calibration": null}``); names are those of the table ``regard.policies``.
    - ``task``: the instruction's wording, for ``search`` or for question answering (``qa``).
    - ``max_words``: a passage (title and text) is cut after so many. Under the block mask the query stands 3 tokens a
      word behind the prompt's beginning, whatever the passages are; one that is longer in tokens loses its end.
    - ``turn``: text before and after the user turn's content, instead of the model's own chat template; special tokens
      in it count.
    - ``keep_tail``: hits beyond ``depth`` are dropped, so that all scores are of one kind; or with True follow in their
      order, with scores 1, 2, 3, ... below the least reranked one.
    - ``cache``: an index with the view ``attention:<lm>``, whose stored keys and values of the passages are used
      instead of running the passages through the model. Only for ``BlockICR``.
    - ``share``: with n above 0, the ranking carries the prefilled first n passages, for a ``Reader`` of the same model
      that reads under the block mask: it need not run them again.

    Scores are in ``attention-mass``, or ``weighted-sum`` when the policy fuses them with the first stage's. A passage
    that does not fit the model's window, or that distance, loses its end, at a sentence's end where there is one
    (counted in the trace as ``passages_cut``); when passages would keep fewer than 16 tokens each, ``BudgetError``. The
    trace notes which kernels ran (``kernels``).
    """

    version = 3
    needs = frozenset({Need.TEXT, Need.ATTENTION})

    lm: str = "smollm2"
    policy: Policy = BlockICR()
    depth: Count = 20
    task: Task = "search"
    max_words: Count = 300
    turn: tuple[str, str] | None = None
    keep_tail: bool = False
    cache: str | Path = ""
    share: Annotated[int, Field(ge=0)] = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if (self.cache or self.share) and (self.policy.mask != "block" or self.policy.query_first):
            raise ConfigError(f"{type(self.policy).__name__} lets passages see each other or the query, so their keys "
                              f"and values belong "
                              "to one prompt", where="AttentionReranker",
                              hint='use the policy "BlockICR" with cache and share')
        if self.cache and self.share:
            raise ConfigError("what a cache holds is not enough to read from", where="AttentionReranker",
                              hint="set share or cache, not both")

    def open(self, scope: Scope, /) -> OpenReranker:
        model = LanguageModel.acquire(self.lm, device=self.device, attention=True)
        scope.callback(model.release)
        return OpenReranker(model, scope.share(("prefills", self), self._open_cache) if self.cache else None)

    def identity(self) -> Any:
        cache = shared(("prefills", self), self._open_cache).fingerprint if self.cache else None
        return {"weights": weights_hash(resolve(self.lm)), "heads": self.policy.heads_in(self.lm), "cache": cache}

    def connections(self) -> Iterator[Connection]:
        return hub([self.lm])

    def check(self) -> Iterator[Problem]:
        try:
            window = describe(self.lm).window
            self.policy.heads_in(self.lm)
        except RegardError as error:
            yield Problem.of(error)
            return
        together = self.policy.at_once(self.depth)
        if self.policy.positions == "distinct" and together * LEAST_PASSAGE_TOKENS > window:
            yield Problem(
                f"{together} passages do not fit the {window} tokens of {self.lm!r}, even cut to "
                f"{LEAST_PASSAGE_TOKENS} each",
                hint=f"set depth (or the policy's window) to at most {window // LEAST_PASSAGE_TOKENS // 2}",
            )

    def run(self, opened: OpenReranker, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        from ...kernels.dispatch import taken

        with taken() as paths:
            done = Batch(self._rerank(opened, query, ranking) for query, ranking in zip(queries, rankings, strict=True))
        record_kernels(paths)
        return done

    def _rerank(self, opened: OpenReranker, query: Query, ranking: Ranking) -> Ranking:
        head = ranking.top(self.depth)
        if not len(head):
            return head.rescore(np.zeros(0, dtype=np.float32), self._space)
        scored = self.policy.score(opened.model, self._lay(opened, query, head), len(head))
        record(tokens_in=scored.prompt.tokens, passages_cut=scored.prompt.cut)
        weight = self.policy.fusion
        scores = scored.scores if weight is None else fused(scored.scores, head.scores, weight)
        ranked = self._with_tail(head, ranking, scores) if self.keep_tail else head.rescore(scores, self._space)
        kept = ranked.rows[:self.share]
        return ranked.with_evidence(
            attention=AttentionEvidence.of(opened.model, head.rows, scored.prompt, scored.mass, keep=kept))

    def _with_tail(self, head: Ranking, ranking: Ranking, scores: Scores) -> Ranking:
        tail = np.arange(1, len(ranking) - len(head) + 1, dtype=np.float32)
        return ranking.rescore(np.concatenate([scores, scores.min() - tail]), self._space)

    def _open_cache(self) -> StoredPrefills:
        return open_prefills(str(self.cache), self.lm, self.form,
                             deepest(self.policy.heads_in(self.lm), describe(self.lm).layers))

    def _lay(self, opened: OpenReranker, query: Query, head: Ranking) -> Lay:
        """How the policy puts the candidates into a prompt: as tokens, prefilled for a reader too, or out of the
        cache."""
        model, kept = opened
        policy, passages = self.policy, functools.cache(head.passages)
        form = policy.form(self.lm, query.text, self.max_words, self.turn)

        def lay(order: Order) -> Prompt:
            return prompt_of(policy, model, form, passages(), order, self.task, query.text,
                             where=f"AttentionReranker, query {query.id!r}")

        def prefilled(order: Order) -> Prompt:
            prompt = lay(order)
            record(tokens_in=len(prompt.ids))
            return replace(prompt, context=model.prefill(prompt.ids, blocks=prompt.blocks, mask=prompt.mask,
                                                         positions=prompt.positions))

        def stored(order: Order) -> Prompt:
            assert kept is not None
            context, spans = kept.prefill(head, model.device)
            suffixes = policy.suffixes(model, form, self.task, query.text)
            after = suffix_position(model, form, suffixes)
            if after < context.plan.after:
                raise BudgetError(f"the query leaves {after - context.plan.prefix} tokens for a passage, and stored "
                                  f"ones are longer",
                                  where=f"AttentionReranker, query {query.id!r}",
                                  hint="shorten the query, or rerank without cache")
            return Prompt(context, list(context.plan.blocks), spans, suffixes, policy.mask, policy.positions, after)

        return stored if kept is not None else prefilled if self.share else lay

    @property
    def form(self) -> Format:
        """How passages stand in the prompt."""
        return self.policy.form(self.lm, "", self.max_words, self.turn)

    @property
    def _space(self) -> ScoreSpace:
        return "attention-mass" if self.policy.fusion is None else "weighted-sum"
