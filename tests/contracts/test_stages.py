"""What every stage of the table promises, and every reranker. A stage that is registered is tried here without a line:

its ports get values by their types, and where it has a setting ``index``, an index. ``SETTINGS`` is for those that need
more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import numpy as np
import pytest
from regard.rag import Pipeline, Query, Ranking
from regard.rag import models as shared_models
from regard.rag.dag.ports import accepts
from regard.rag.dag.scope import Scope
from regard.rag.dag.stage import Stage
from regard.rag.lm import LanguageModel
from regard.rag.models.encoding import Encoder
from regard.rag.nouns import Answer, Group, Passage, PassageList, QueryVector, State, Verdict
from regard.rag.parts import part
from regard.rerankers import CrossEncoder, Margin
from regard.retrievers import BM25

from ..wires import HEAD, wire

QUERIES = [Query("how long does a flea live", "a"), Query("why does the dough of bread rise", "b"),
           Query("who holds the cables?", "c")]
PASSAGES = [Passage(f"p{i}", f"d{i // 2}", text, 0, len(text), title) for i, (title, text) in enumerate([
    ("Moon", "The Moon orbits the Earth once in about 27 days."), ("", "Fleas live for two weeks to eight months."),
    ("Bread", "Yeast gives off carbon dioxide, and so dough rises."), ("", "Two towers hold the cables of a bridge."),
    ("", "Honey never spoils."), ("", "The heart has four chambers.")])]
STORE = PassageList(PASSAGES)


def derived(query: Query) -> Query:
    return query.derive(query.text.upper())


def by_length(query: Query) -> Verdict:
    return Verdict("long" if len(query.text) > 22 else "short")


def one_more(state: State) -> State:
    return State(state.query.derive(state.query.text + "!"), state.rankings, done=len(state.query.text) > 33)


Settings = dict[str, Any]
SETTINGS: dict[str, Callable[[Path, str], Settings]] = {
    "AttentionReranker": lambda index, url: {"depth": 3},
    "Cascade": lambda index, url: {"stages": [CrossEncoder(depth=4), CrossEncoder(depth=2)], "enough": Margin(0.5)},
    "Choose": lambda index, url: {"gate": by_length, "routes": {"long": BM25(index), "short": BM25(index, k=1)}},
    "CrossEncoder": lambda index, url: {"depth": 4},
    "Each": lambda index, url: {"body": BM25(index, k=3)},
    "Function": lambda index, url: {"function": derived},
    "Loop": lambda index, url: {"body": one_more, "most": 3},
    "Reader": lambda index, url: {"budget": 60, "max_new_tokens": 3},
    "RemoteReader": lambda index, url: {"model": "m", "base_url": url, "api_key_env": None, "timeout": 10},
}
NAMES_A_MODEL = {"lm", "model", "embedder", "tokenizer"}
SOMEWHERE_ELSE = {("RemoteReader", "model")}
"""Models on a server, of which ``check`` knows nothing."""


def said(connection: Any) -> None:
    piece = json.dumps({"choices": [{"delta": {"content": "Two weeks to eight months."}, "finish_reason": None}]})
    connection.sendall(HEAD + f"data: {piece}\n\ndata: [DONE]\n\n".encode())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with wire(said) as running:
        yield running.url


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Iterator[None]:
    """Holds the models, so that each is loaded once for all tests."""
    with Scope() as scope:
        for held in (part(Encoder, "minilm"), CrossEncoder()):
            scope.open(held)
        lm = LanguageModel.acquire("smollm2")
        scope.callback(lm.release)
        yield


@pytest.fixture(params=Stage.table().names())
def stage(request: pytest.FixtureRequest, facts_index: Path, server: str) -> Stage:
    return made(request.param, facts_index, server)


def made(name: str, index: Path, url: str) -> Stage:
    kind = Stage.table()[name]
    given = {"index": index} if "index" in kind.setting_names() else {}
    one: Stage = kind(**given, **SETTINGS.get(name, lambda index, url: {})(index, url))
    return one


# -- values by type ---------------------------------------------------------------------


def sample(kind: Any, i: int) -> Any:
    """Value ``i`` of a type that ports are of."""
    if isinstance(kind, TypeVar) or kind is Any:
        return QUERIES[i]
    if get_origin(kind) in (Union, UnionType):
        return sample(get_args(kind)[0], i)
    if get_origin(kind) is Group:
        return Group(sample(get_args(kind)[0], (i + j) % 3) for j in range(i))  # the first has no member
    values: dict[Any, Callable[[], Any]] = {
        Query: lambda: QUERIES[i], Ranking: lambda: ranking(6 - 2 * i, seed=i),
        State: lambda: State(QUERIES[i], (ranking(3, seed=i),)[:i]), Verdict: lambda: Verdict("long", i / 3),
        QueryVector: lambda: QueryVector(QUERIES[i], np.ones(384, np.float32) * (i + 1)),
        Answer: lambda: Answer(f"answer {i}"),
        str: lambda: f"text {i}", int: lambda: i, float: lambda: i / 2, bool: lambda: bool(i),
    }
    if kind not in values:
        pytest.fail(f"there is no sample of {kind}: add one here")
    return values[kind]()


def ranking(n: int, seed: int = 0) -> Ranking:
    random = np.random.default_rng(seed)
    return Ranking.ranked(random.permutation(len(PASSAGES))[:n], random.random(n), "bm25", STORE).marked("first")


def inputs(stage: Stage) -> list[list[Any]]:
    """Three values for each port; two ports for one that takes any number."""
    ports = [port for port in stage.ports().inputs for _ in range(2 if port.variadic else 1)]
    return [[sample(port.type, i) for i in range(3)] for port in ports]


def pipeline(stage: Stage) -> Pipeline:
    p = Pipeline()
    ports = [port for port in stage.ports().inputs for _ in range(2 if port.variadic else 1)]
    given = p.add(stage, *(p.input(port.type, f"in{i}") for i, port in enumerate(ports)), name="tried")
    wires = given if isinstance(given, tuple) else (given,)
    return p.output(**{f"out{i}": wire for i, wire in enumerate(wires)})


def alike(a: Any, b: Any) -> bool:
    """Equal; scores up to the rounding of another batch."""
    if isinstance(a, Ranking):
        return a.rows.tolist() == b.rows.tolist() and a.space == b.space and np.allclose(a.scores, b.scores, atol=1e-5)
    if isinstance(a, Group | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, QueryVector):
        return a.query == b.query and a.fingerprint == b.fingerprint and np.allclose(a.value, b.value, atol=1e-5)
    if isinstance(a, State):
        return (a.query, a.hop, a.done, a.notes) == (b.query, b.hop, b.done, b.notes) and alike(a.rankings, b.rankings)
    return bool(a == b)


# -- every stage ------------------------------------------------------------------------


def test_a_batch_gives_what_single_values_give(stage: Stage) -> None:
    given = inputs(stage)
    with pipeline(stage) as p:
        together = p.run(*given)
        for i in (2, 0, 1):
            alone = p.run(*([values[i]] for values in given))
            for name, batch in together.items():
                assert alike(batch[i], alone[name][0]), name
    for port, batch in zip(stage.ports().outputs, together.values(), strict=True):
        assert all(accepts(port.type, value) for value in batch)


def test_an_empty_batch_gives_an_empty_batch(stage: Stage) -> None:
    nothing: list[Any] = [[] for _ in inputs(stage)]
    with pipeline(stage) as p:
        assert all(len(batch) == 0 for batch in p.run(*nothing).values())
    given = stage.apply(*nothing)
    assert all(len(batch) == 0 for batch in (given if stage.ports().bundle else [given]))


def test_one_object_runs_in_two_pipelines_and_in_two_threads_at_once(stage: Stage) -> None:
    given = inputs(stage)
    p, q = pipeline(stage), pipeline(stage)
    assert p.nodes["tried"].stage is q.nodes["tried"].stage is stage
    with p, q, ThreadPoolExecutor(3) as threads:
        wanted = p.run(*given)
        results = [f.result() for f in [threads.submit(one.run, *given) for one in (p, q, p)]]
        q.close()
        results.append(p.run(*given))
    for result in results:
        assert all(alike(batch, wanted[name]) for name, batch in result.items())
        assert result.trace.stages[0].stage == "tried"


def test_nothing_is_loaded_before_it_is_opened(
    stage: Stage, facts_index: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Making, asking for ports and fingerprint, checking, drawing and saving load no model and no view."""
    acquired: list[Any] = []
    real = shared_models.acquire
    monkeypatch.setattr(shared_models, "acquire", lambda key, load: acquired.append(key) or real(key, load))
    again = made(Stage.table().name_of(type(stage)) or "", facts_index, server)
    p = pipeline(again)
    assert not [problem for problem in p.check() if problem.fatal]
    assert (again.fingerprint(), again.ports()) == (stage.fingerprint(), stage.ports())
    p.to_svg()
    p.save(tmp_path / "p.yaml")
    assert acquired == []


@pytest.mark.parametrize(("name", "setting"), [
    (name, setting) for name in Stage.table().names() for setting in Stage.table()[name].setting_names()
    if setting in {"index", *NAMES_A_MODEL} and (name, setting) not in SOMEWHERE_ELSE])
def test_check_names_what_is_missing_and_loads_nothing(
    name: str, setting: str, facts_index: Path, server: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanting = made(name, facts_index, server).replace(**{setting: "./nowhere"})
    monkeypatch.setattr(shared_models, "acquire", lambda key, load: pytest.fail(f"{key} was loaded"))
    found = [problem for problem in pipeline(wanting).check() if problem.fatal]
    assert any("nowhere" in str(problem) and "tried" in problem.where for problem in found), found
    assert all(problem.hint for problem in found)


def test_a_file_gives_the_same_stage_back(stage: Stage, tmp_path: Path) -> None:
    p = pipeline(stage)
    p.save(tmp_path / "p.yaml")
    again = Pipeline.load(tmp_path / "p.yaml")
    assert again.nodes["tried"].stage == stage
    assert again.plan().fingerprint() == p.plan().fingerprint()
    again.save(tmp_path / "q.yaml")
    assert (tmp_path / "p.yaml").read_text() == (tmp_path / "q.yaml").read_text()


def test_what_says_that_it_is_deterministic_is(stage: Stage) -> None:
    if not stage.deterministic:
        pytest.skip("it does not say so")
    given = inputs(stage)
    first, second = stage.apply(*given), stage.apply(*given)
    assert first == second


def test_what_it_was_given_is_as_it_was(stage: Stage) -> None:
    given = inputs(stage)
    stage.apply(*given)
    assert given == inputs(stage)


# -- every reranker ---------------------------------------------------------------------


def is_reranker(name: str) -> bool:
    """Whether it takes queries and rankings and gives rankings."""
    stage = made(name, Path("index"), "http://127.0.0.1:9/v1")
    ports = stage.ports()
    return [p.type for p in ports.inputs] == [Query, Ranking] and [p.type for p in ports.outputs] == [Ranking]


RERANKERS = [name for name in Stage.table().names() if is_reranker(name)]


def test_the_known_rerankers_are_among_them() -> None:
    assert {"AttentionReranker", "Cascade", "CrossEncoder"} <= set(RERANKERS)


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_gives_a_permutation_of_the_head_of_what_it_was_given(name: str, facts_index: Path,
                                                                         server: str) -> None:
    stage = made(name, facts_index, server)
    given = [ranking(n, seed=n) for n in (6, 2, 1, 0)]
    with pipeline(stage) as p:
        results = p.run([QUERIES[0]] * len(given), given).out0
    for before, after in zip(given, results, strict=True):
        n = len(after)
        assert sorted(after.rows.tolist()) == sorted(before.rows[:n].tolist())
        assert n == min(len(before), getattr(stage, "depth", n))
        assert (n > 0) == (len(before) > 0)
        assert after.store is before.store
        assert np.isfinite(after.scores).all()
        assert (np.diff(after.scores) <= 0).all()
        assert not n or after[0].history[0].stage == "first"
        assert all(hit.history[0].rank == before.rows.tolist().index(row) + 1
                   for hit, row in zip(after, after.rows, strict=True))
        assert after.steps[-1].stage.startswith("tried")
        assert after.steps[-1].ranks.tolist() == list(range(1, n + 1))


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_keeps_the_same_passage_twice(name: str, facts_index: Path, server: str) -> None:
    twice = Ranking.ranked([1, 1], [2, 1], "bm25", STORE)
    (result,) = made(name, facts_index, server).apply([QUERIES[0]], [twice])
    assert result.rows.tolist() == [1, 1]
