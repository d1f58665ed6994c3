"""Every attention policy of the table, and those that another distribution brings (``tests/third_party``): it ranks
what it is given, whatever else is in the batch, and does as it declares."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from regard.rag.dag.stage import Stage
from regard.rag.errors import ConfigError, RegardError
from regard.rag.lm import LanguageModel
from regard.rag.nouns import Batch, Passage, PassageList, Query, Ranking
from regard.rag.parts import part, plain, register, text_of
from regard.rag.tables import table
from regard.rerankers import ICR, AttentionReranker, BlockICR, Policy
from regard.rerankers.attention.policies.policy import Lay, Scored

from ..lms import random_lm

POLICIES = Policy.table().names()
TEXTS = ["Bread is baked in an oven.", "A flea lives for about a hundred days.", "", "x",
         "The Eiffel Tower is in Paris. " * 12]
ASKED = [Query("how long does a flea live", "a"), Query("where is the tower", "b"), Query("?", "c")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A random Llama on disk, with SmolLM2's tokenizer; held, so that it is loaded once."""
    folder = random_lm(tmp_path_factory.mktemp("tiny") / "random", max_position_embeddings=2048, initializer_range=0.3)
    model = LanguageModel.acquire(folder, device="cpu")
    yield folder
    model.release()


def made(name: str) -> Policy:
    """The policy as it is, but for heads that the tiny model has."""
    cls: type[Policy] = Policy.table()[name]
    return cls(heads="0-1,1-1,2-0") if "heads" in cls.setting_names() else cls()


def candidates(texts: Sequence[str] = TEXTS) -> Ranking:
    store = PassageList([Passage(f"p{i}", f"d{i}", text, 0, len(text)) for i, text in enumerate(texts)])
    return Ranking.ranked(np.arange(len(texts)), -np.arange(len(texts), dtype=np.float32), "bm25", store)


def ranked(lm: str, policy: Policy, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Ranking]:
    return list(AttentionReranker(lm, policy=policy, device="cpu").apply(Batch(queries), Batch(rankings)))


def scores(ranking: Ranking) -> dict[int, float]:
    return dict(zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True))


# -- the contract --------------------------------------------------------------------------


def expect_a_ranking(lm: str, policy: Policy) -> None:
    """Each passage once, with a finite score, best first; also of no passage and of one."""
    given = candidates()
    for taken in (given, given[:1], given[:0]):
        (result,) = ranked(lm, policy, ASKED[:1], [taken])
        assert sorted(result.rows) == sorted(taken.rows)
        assert np.isfinite(result.scores).all()
        assert (np.diff(result.scores) <= 0).all()
        assert result.scores.dtype == np.float32


def expect_the_same_in_any_batch(lm: str, policy: Policy) -> None:
    given = candidates()
    rankings = [given, given[:2], given]
    singles = [ranked(lm, policy, [query], [ranking])[0] for query, ranking in zip(ASKED, rankings, strict=True)]
    assert [scores(one) for one in ranked(lm, policy, ASKED, rankings)] == [scores(one) for one in singles]
    assert [scores(one) for one in ranked(lm, policy, ASKED[::-1], rankings[::-1])] == [scores(one)
                                                                                        for one in singles[::-1]]


def expect_no_order(lm: str, policy: Policy) -> None:
    """Of a policy that leaves the order to the prompt: the order in which candidates come changes no score."""
    given = candidates()
    (wanted,) = ranked(lm, policy, ASKED[:1], [given])
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert scores(ranked(lm, policy, ASKED[:1], [given.take(order)])[0]) == scores(wanted)


def expect_what_is_declared(lm: str, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens go through the model under the declared mask, at the declared positions."""
    seen: list[tuple[Any, Any]] = []
    for name in ("attention_mass", "prefill"):
        real = getattr(LanguageModel, name)

        def watched(self: LanguageModel, context: Any, *rest: Any, _real: Any = real, **settings: Any) -> Any:
            call = inspect.signature(_real).bind(self, context, *rest, **settings)
            call.apply_defaults()
            if isinstance(context, list):  # tokens, not what was prefilled before
                seen.append((call.arguments["mask"], call.arguments["positions"]))
            return _real(self, context, *rest, **settings)

        monkeypatch.setattr(LanguageModel, name, watched)
    ranked(lm, policy, ASKED[:1], [candidates()])
    monkeypatch.undo()
    assert set(seen) == {(policy.mask, policy.positions)}


# -- each policy ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_it_ranks_its_candidates(name: str, tiny: str) -> None:
    expect_a_ranking(tiny, made(name))


@pytest.mark.parametrize("name", POLICIES)
def test_what_else_is_in_the_batch_changes_nothing(name: str, tiny: str) -> None:
    expect_the_same_in_any_batch(tiny, made(name))


@pytest.mark.parametrize("name", POLICIES)
def test_no_order_means_no_order(name: str, tiny: str) -> None:
    policy = made(name)
    if policy.order(3) is None:
        expect_no_order(tiny, policy)
    else:
        assert sorted(policy.order(5) or []) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", POLICIES)
def test_mask_and_positions_are_those_it_declares(name: str, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expect_what_is_declared(tiny, made(name), monkeypatch)


@pytest.mark.parametrize("name", POLICIES)
def test_how_many_stand_in_one_prompt(name: str) -> None:
    policy = made(name)
    assert all(1 <= policy.at_once(n) <= n for n in (1, 2, 20, 1000))


@pytest.mark.parametrize("name", POLICIES)
def test_heads_of_a_model_that_is_not_there(name: str) -> None:
    """All of them, those that it was given, or a typed error; and ``check`` tells."""
    heads = None
    with suppress(RegardError):
        heads = made(name).heads_in("./no-such-model")
    assert heads is None
    assert list(AttentionReranker("./no-such-model", policy=made(name)).check())


@pytest.mark.parametrize("name", POLICIES)
def test_what_passages_see_of_each_other_cannot_be_kept(name: str, tmp_path: Any) -> None:
    policy = made(name)
    for settings in ({"share": 2}, {"cache": str(tmp_path)}):
        if policy.mask == "block" and not policy.query_first:
            assert AttentionReranker(policy=policy, **settings).policy == policy
        else:
            with pytest.raises(ConfigError, match="see each other or the query"):
                AttentionReranker(policy=policy, **settings)


@pytest.mark.parametrize("name", POLICIES)
def test_a_reranker_holds_it_in_every_form(name: str) -> None:
    policy = made(name)
    stage = AttentionReranker(policy=policy)
    for form in (text_of(policy), text_of(policy).replace(name, name.lower(), 1), plain(policy)):
        assert AttentionReranker(policy=form) == stage
    assert part(Stage, text_of(stage)) == part(Stage, yaml.safe_load(yaml.safe_dump(plain(stage)))) == stage


@pytest.mark.parametrize("name", POLICIES)
def test_it_says_where_it_comes_from(name: str) -> None:
    """A published method has its card; what has none says that it is ours."""
    cls: type[Policy] = Policy.table()[name]
    assert cls.card is not None or "ours" in (cls.__doc__ or "")


# -- the suite itself ----------------------------------------------------------------------


class Moody(ICR):
    """Another score each time."""

    def scored(self, lm: LanguageModel, prompt: Any) -> Scored:
        scored = super().scored(lm, prompt)
        return Scored(scored.scores * np.float32(np.random.default_rng().random()), scored.mass, prompt)


class Blank(ICR):
    """No score for a passage without text."""

    def scored(self, lm: LanguageModel, prompt: Any) -> Scored:
        scored = super().scored(lm, prompt)
        return Scored(scored.scores + np.float32(np.nan), scored.mass, prompt)


class Sly(BlockICR):
    """Says that the order is no matter, and looks at it."""

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        scored = super().score(lm, lay, n)
        return Scored(scored.scores + np.arange(n, dtype=np.float32), scored.mass, scored.prompt)


class Liar(ICR):
    """Another mask than it declares."""

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        prompt = lay(self.order(n))
        lm.attention_mass(prompt.context, prompt.suffixes, mask="block", positions="shared", blocks=prompt.blocks)
        return self.scored(lm, prompt)


def test_the_suite_notices_what_breaks_the_contract(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        expect_the_same_in_any_batch(tiny, Moody())
    with pytest.raises((AssertionError, RegardError)):
        expect_a_ranking(tiny, Blank())
    with pytest.raises(AssertionError):
        expect_no_order(tiny, Sly())
    with pytest.raises(AssertionError):
        expect_what_is_declared(tiny, Liar(), monkeypatch)


def test_a_policy_that_somebody_registers_is_in_the_suite() -> None:
    assert "UpperLayers" in POLICIES
    lines = Path(__file__).parents[1].joinpath("third_party", "acme_policies.py").read_text().splitlines()
    assert len(lines) < 40, "one file of under 40 lines"
    register(Moody)
    try:
        assert "Moody" in Policy.table().names()
        assert isinstance(AttentionReranker(policy="moody:window=3").policy, Moody)
    finally:
        table("regard.policies").forget("Moody")


@pytest.mark.parametrize(("policy", "said"), [
    ("ICQ", "did you mean ICR"), ("icr:windw=3", "did you mean window"), ("icr:window=1", "window"),
    ("icr:window=x", "window"),
    ({"part": "ICR", "first": "shuffled"}, "best-last"), ({"kind": "ICR"}, "part: NAME"), ({"part": "BM25"}, "known"),
    ("icr:stride=2", "stride"), ("icr:window=4,fusion=0.5", "window or fusion"), (5, "Policy"), (ICR, "call it"),
    (None, "Policy"),
    ("", "names"), ("icr:deviations=-1", "deviations"), ("icr:deviations=nan", "deviations"),
], ids=str)
def test_what_is_no_policy_is_refused(policy: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AttentionReranker(policy=policy)
    assert said in str(caught.value)
