"""Every stage, encoder and verifier in a table: each of its settings, and each thing that it reads from outside, moves
its fingerprint.

What does not move it is answered out of the stage cache as if nothing had changed. A part that is registered is tried
without a line here: a setting gets the first other value that it takes. A case is for parts that need something, and
for settings that name something.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import numpy as np
import pytest
from regard.indexers import build_index
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.stores.lance.writer import StoreWriter
from regard.indexers.stores.locks import locked
from regard.indexers.views import ViewKind, build_view, parse_view
from regard.rag import Document, Pipeline, Query, Ranking
from regard.rag.dag.function import Function
from regard.rag.dag.stage import Stage
from regard.rag.errors import ConfigError, RegardError
from regard.rag.lm.heads import HeadSet
from regard.rag.models import resolve, weights_hash
from regard.rag.models.encoding import Encoder
from regard.rag.models.verification import Verifier
from regard.rag.nouns import State, Verdict
from regard.rag.parts import Part
from regard.rag.tables import table
from regard.rerankers import CrossEncoder, Margin, Policy
from regard.retrievers import BM25

from ..conftest import HashEncoder
from ..lms import random_lm

DOCUMENTS = [Document(f"d{i}", f"word{i} and word{i % 7} stand in passage number {i}") for i in range(40)]
MODEL_FILES = {
    "model.safetensors": "weights", "pytorch_model.bin": "weights", "model.onnx_data": "weights",
    "config.json": '{"hidden_size": 8}',
    "tokenizer.json": '{"version": "1.0"}', "tokenizer_config.json": "{}", "vocab.txt": "a\nb",
    "spiece.model": "pieces",
    "chat_template.jinja": "{{ messages }}", "generation_config.json": "{}",
}
"""What lies in a model's folder and decides what it gives; only hashes are taken of it here."""


@dataclass(frozen=True)
class World:
    """A folder with all that stages read: two indexes, models, head sets."""

    root: Path

    def __getattr__(self, name: str) -> str:
        return str(self.root / name)


Settings = dict[str, Any]
Change = Callable[[World], None]


@dataclass(frozen=True)
class Case:
    """``made_with``: settings to start from. ``other``: for each setting another value. ``outside``: by name, what
    changes beneath a stage that was made with the settings beside it."""

    made_with: Callable[[World], Settings]
    other: Callable[[World], Settings]
    outside: dict[str, tuple[Callable[[World], Settings], Change]] = field(default_factory=dict)


# -- what changes outside -----------------------------------------------------------------


def _index_shrinks(world: World) -> None:
    """The store alone moves on; the views follow when they are opened."""
    path = Path(world.index)
    with locked(path):
        StoreWriter(path, chunker=LanceStore(path).manifest["chunker"]).delete(["d0"])


def _rebuilt_from_nothing(slug: str) -> Change:
    """The same parameters: an approximate index that grew is not the one that is built in one go."""
    def change(world: World) -> None:
        store = LanceStore(world.index)
        (folder,) = Path(world.index, "views", slug).glob("*/")
        spec = json.loads((folder / "view.json").read_text())["spec"]
        shutil.rmtree(folder)
        build_view(store, parse_view(ViewKind.from_text(spec["part"]), spec.get("encoder", "")), progress=False)
    return change


def _file(folder: str, name: str) -> Change:
    def change(world: World) -> None:
        path = Path(getattr(world, folder), name)
        path.write_bytes(path.read_bytes().replace(b"}", b" }") + b" ")  # still JSON where it was
    return change


def _files_of(folder: str, made_with: Callable[[World], Settings]) -> dict[str,
                                                                           tuple[Callable[[World], Settings], Change]]:
    return {f"{folder}/{name}": (made_with, _file(folder, name)) for name in MODEL_FILES}


def _other_heads(world: World) -> None:
    _head_set(Path(world.lm), Path(world.heads), seed=2)


def _cached_in_bits(bits: int) -> Change:
    return lambda world: build_view(LanceStore(world.cached), parse_view(f"attention:{world.lm},bits={bits}"),
                                    progress=False) and None


def _head_set(lm: Path, path: Path, seed: int) -> None:
    table = np.random.default_rng(seed).random((4, 4)).tolist()
    measures: Any = dict.fromkeys(("ndcg", "qrhead_ndcg", "qrhead_score", "core_score"), table)
    intervals: Any = {measure: [[(0.0, 1.0)] * 4] * 4 for measure in measures}
    HeadSet("tiny", weights_hash(resolve(str(lm))), {"mask": "block"}, measures, intervals).save(path)


# -- the cases --------------------------------------------------------------------------


def _attention(world: World) -> Settings:
    return {"lm": world.lm, "policy": {"part": "BlockICR", "heads": world.heads}}


def _reader(world: World) -> Settings:
    return {"lm": world.fake, "embedder": world.embedder}


def _remote(world: World) -> Settings:
    return {"model": "m", "base_url": "http://localhost:1/v1", "tokenizer": world.fake, "embedder": world.embedder}


def _verified(made_with: Callable[[World], Settings]) -> dict[str, tuple[Callable[[World], Settings], Change]]:
    return {"verifier's weights": (lambda world: {**made_with(world), "verifier": f"lm:{world.lm}"},
                                   _file("lm", "model.safetensors"))}


def _first(**settings: Any) -> Callable[[World], Settings]:
    return lambda world: {"index": world.index, **settings}


READING: Settings = {
    "depth": 3, "budget": 99, "order": "best-first", "system": None, "instruction": "{passages} So: {question}",
    "min_support": 0.9,
    "max_new_tokens": 7, "temperature": 0.5, "top_p": 0.5, "seed": 9, "verifier": None,
}

def _encoder(world: World) -> Settings:
    return {"model": world.fake}


def _other_encoder(world: World) -> Settings:
    return {"model": world.fake2}


def _plain_query(query: Query) -> Query:
    return query


def _another_query(query: Query) -> Query:
    return query.derive(query.text + "!")


def _gate(query: Query) -> Verdict:
    return Verdict("a")


def _other_gate(query: Query) -> Verdict:
    return Verdict("b")


def _of_state(state: State) -> Verdict:
    return Verdict("done")


def _next(state: State) -> State:
    return state


def _next_but_one(state: State) -> State:
    return replace(state, done=True)


def _of_ranking(ranking: Ranking) -> Verdict:
    return Verdict("enough")


def _searched(world: World, k: int = 10) -> Stage:
    return BM25(world.index, k=k)


def _choose(world: World) -> Settings:
    return {"gate": _gate, "routes": {"a": _searched(world), "b": _searched(world, 3)}}


def _cascade(world: World) -> Settings:
    return {"stages": [CrossEncoder(world.fake)], "enough": Margin()}


CASES: dict[str, Case] = {
    "BM25": Case(_first(), lambda world: {"index": world.other, "k": 7, "filters": {"id": "d1"}}, {
        "index version": (_first(), _index_shrinks),
        "view's build": (_first(), _rebuilt_from_nothing("bm25")),
    }),
    "Dense": Case(
        _first(view="faiss:hnsw"),
        lambda world: {"index": world.other, "k": 7, "encoder": HashEncoder(8), "view": "faiss:flat",
                       "filters": {"id": "d1"},
                       "device": "cpu"},
        {
            "index version": (_first(view="faiss:flat"), _index_shrinks),
            "view's build": (_first(view="faiss:hnsw"), _rebuilt_from_nothing("faiss-hnsw-hash_encoder")),
        }),  # other weights of the encoder are refused by check and open: test_check_shows_both_fingerprints_of_another_encoder  # noqa: E501
    "Search": Case(
        _first(view="bm25"),
        lambda world: {"index": world.other, "k": 7, "view": "flat", "column": "hash_encoder", "filters": {"id": "d1"}},
        {"index version": (_first(view="flat"), _index_shrinks),
         "view's build": (_first(view="bm25"), _rebuilt_from_nothing("bm25"))}),
    "Encode": Case(lambda world: {"encoder": f"SentenceTransformerEncoder:{world.fake}"},
                   lambda world: {"encoder": f"SentenceTransformerEncoder:{world.fake2}"},
                   _files_of("fake", lambda world: {"encoder": f"SentenceTransformerEncoder:{world.fake}"})),
    "Fuse": Case(lambda world: {}, lambda world: {"weights": [1.0, 2.0]}),
    "CrossEncoder": Case(
        lambda world: {"model": world.fake},
        lambda world: {"model": world.fake2, "depth": 7, "max_length": 99, "batch_tokens": 99, "device": "cpu"},
        _files_of("fake", lambda world: {"model": world.fake})),
    "AttentionReranker": Case(
        _attention,
        lambda world: {"lm": world.lm_moved, "policy": {"part": "BlockICR", "heads": world.heads, "top": 3}, "depth": 7,
                       "task": "qa",
                       "max_words": 9, "turn": ("<", ">"), "keep_tail": True, "cache": world.cached, "share": 2,
                       "device": "cpu"},
        {
            "head set": (_attention, _other_heads),
            "cached keys and values": (lambda world: {**_attention(world), "cache": world.cached}, _cached_in_bits(32)),
            "weights": (lambda world: {"lm": world.lm, "policy": "ICR"}, _file("lm", "model.safetensors")),
            "tokenizer": (lambda world: {"lm": world.lm, "policy": "ICR"}, _file("lm", "tokenizer.json")),
            "configuration": (lambda world: {"lm": world.lm, "policy": "ICR"}, _file("lm", "config.json")),
        }),
    "Reader": Case(
        _reader,
        lambda world: {**READING, "lm": world.fake2, "embedder": world.fake2, "stop": ["."], "mask": "block",
                       "device": "cpu"},
        {**_files_of("fake", _reader), **_files_of("embedder", _reader), **_verified(_reader)}),
    "RemoteReader": Case(
        _remote,
        lambda world: {**READING, "model": "n", "base_url": "http://localhost:2/v1", "api_key_env": "OTHER_KEY",
                       "tokenizer": world.fake2,
                       "timeout": 9.0, "deadline": 9.0, "retries": 0, "concurrency": 1, "embedder": world.fake2,
                       "parameters": {"top_k": 3}},
        {**_files_of("fake", _remote), **_files_of("embedder", _remote), **_verified(_remote)}),
    "Function": Case(lambda world: {"function": _plain_query, "takes": (Query,), "gives": Query},
                     lambda world: {"function": _another_query, "takes": (Ranking,), "gives": Ranking}),
    "Each": Case(lambda world: {"body": _searched(world)}, lambda world: {"body": _searched(world, 3), "over": "query"},
                 {"what its body reads": (lambda world: {"body": _searched(world)}, _index_shrinks)}),
    "Choose": Case(_choose, lambda world: {"gate": _other_gate, "routes": {"a": _searched(world)}, "otherwise": "b"},
                   {"what a route reads": (_choose, _index_shrinks)}),
    "Loop": Case(lambda world: {"body": _next, "most": 2},
                 lambda world: {"body": _next_but_one, "most": 3, "until": _of_state}),
    "Cascade": Case(_cascade, lambda world: {"stages": [CrossEncoder(world.fake, depth=3)], "enough": _of_ranking},
                    {f"its stage's {name}": (_cascade, change)
                     for name, (_, change) in _files_of("fake", _cascade).items()}),
    "SentenceTransformerEncoder": Case(_encoder, _other_encoder, _files_of("fake", _encoder)),
    "OnnxEncoder": Case(_encoder, _other_encoder, _files_of("fake", _encoder)),
    "nli": Case(_encoder, lambda world: {"model": world.fake2}, _files_of("fake", _encoder)),
    "lm": Case(lambda world: {"model": world.lm}, lambda world: {"model": world.lm_moved},
               {"weights": (lambda world: {"model": world.lm}, _file("lm", "model.safetensors"))}),
}

KINDS = {name: kind.table()[name] for kind in (Stage, Encoder, Verifier) for name in kind.table().names()}
SETTINGS = [(name, setting) for name, kind in KINDS.items() for setting in kind.setting_names()]
OUTSIDE = [(name, what) for name, case in CASES.items() for what in case.outside]
NOTHING = Case(lambda world: {}, lambda world: {})

CANDIDATES = (None, True, False, 1, 2, 3, 0, 0.25, 0.5, "0-1", "else", "best-first", "best-last", "ndcg", "qrhead_ndcg",
              "qrhead_score", "core_score", "minmax", "cls", "mean", "block", "causal", "qa", "search", ("else",),
              {"id": "else"}, "bge-small")
"""Values that some setting or other takes."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, hash_encoder: Any) -> World:
    """Nothing changes in it; :func:`changing` is a copy."""
    made = World(tmp_path_factory.mktemp("world"))
    for name in ("index", "other"):
        for passages in (30, 40):  # grown, so that its approximate view was extended
            build_index(DOCUMENTS[:passages], getattr(made, name), encoder=hash_encoder(8), chunker="whole",
                        progress=False,
                        views=["bm25", "faiss:flat", "faiss:hnsw"])
    for name in ("fake", "fake2", "embedder"):
        Path(getattr(made, name)).mkdir()
        for file, content in MODEL_FILES.items():
            Path(getattr(made, name), file).write_text(content)
    random_lm(Path(made.lm))
    shutil.copytree(made.lm, made.lm_moved)
    _head_set(Path(made.lm), Path(made.heads), seed=1)
    build_index(DOCUMENTS[:3], made.cached, encoder=None, chunker="whole", views=["bm25"], progress=False)
    _cached_in_bits(16)(made)
    return made


@pytest.fixture
def changing(world: World, tmp_path: Path) -> Iterator[World]:
    shutil.copytree(world.root, tmp_path / "world")
    yield World(tmp_path / "world")
    shutil.rmtree(tmp_path / "world")


def _made(name: str, settings: Settings) -> Part:
    made: Part = KINDS[name](**settings)
    return made


def _with_another(name: str, setting: str, world: World) -> Part:
    """The part of the case with another value of ``setting``."""
    case, before = CASES.get(name, NOTHING), _made(name, CASES.get(name, NOTHING).made_with(world))
    others = case.other(world)
    for candidate in [others[setting]] if setting in others else CANDIDATES:
        try:
            made = before.replace(**{setting: candidate})
            made.fingerprint()
        except RegardError:  # no value of it, or the name of a model that is not here
            continue
        if getattr(made, setting) != getattr(before, setting):
            return made
    pytest.fail(f"{name} takes no other value of {setting} that is tried here: give it one in CASES")


def test_every_case_is_of_a_registered_part() -> None:
    assert set(CASES) <= set(KINDS)
    for name, case in CASES.items():
        assert set(case.other(World(Path("x")))) <= set(KINDS[name].setting_names())


@pytest.mark.parametrize("name", KINDS)
def test_the_same_is_the_same(name: str, world: World) -> None:
    case = CASES.get(name, NOTHING)
    for made_with in (case.made_with, *(settings for settings, _ in case.outside.values())):
        assert _made(name, made_with(world)).fingerprint() == _made(name, made_with(world)).fingerprint()


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_a_setting_moves_the_fingerprint(name: str, setting: str, world: World) -> None:
    before = _made(name, CASES.get(name, NOTHING).made_with(world))
    assert _with_another(name, setting, world).fingerprint() != before.fingerprint()


@pytest.mark.parametrize(("name", "what"), OUTSIDE)
def test_what_is_read_from_outside_moves_the_fingerprint(name: str, what: str, changing: World) -> None:
    made_with, change = CASES[name].outside[what]
    before = _made(name, made_with(changing)).fingerprint()
    change(changing)
    assert _made(name, made_with(changing)).fingerprint() != before


@pytest.mark.parametrize("name", KINDS)
def test_the_class_and_its_version_move_it(name: str, world: World) -> None:
    kind, settings = KINDS[name], CASES.get(name, NOTHING).made_with(world)

    class Another(kind):
        pass

    class Newer(kind):
        version: ClassVar[int] = kind.version + 1

    Another.__name__ = kind.__name__
    Newer.__name__, Newer.__qualname__, Newer.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    assert len({made(**settings).fingerprint() for made in (kind, Another, Newer)}) == 3


@pytest.mark.parametrize("name", Stage.table().names())
def test_where_a_stage_stands_and_what_it_is_called_does_not(name: str, world: World) -> None:
    stage = _made(name, CASES.get(name, NOTHING).made_with(world))
    before, keys = stage.fingerprint(), set()
    for called in ("one", "another"):
        p = Pipeline()
        wires = [p.input(port.type) for port in stage.ports().inputs]
        wire = p.add(stage, *wires, name=called)
        p.output(given=wire[0] if isinstance(wire, tuple) else wire)
        assert p.nodes[called].stage is stage
        keys.add(p.plan().fingerprint())
    assert stage.fingerprint() == before
    assert len(keys) == 1


def test_the_server_that_the_environment_names_moves_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**_remote(world), "base_url": None}
    before = _made("RemoteReader", settings).fingerprint()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:3/v1")
    assert _made("RemoteReader", settings).fingerprint() != before


def test_a_functions_types_are_told_apart() -> None:
    """Classes, generics and unions: each is itself, whatever it has as attributes."""
    kinds = (Query, Ranking, list[str], list[int], list[Query], tuple[str, int], Query | Ranking, Query | None, Any,
             BM25, HashEncoder)
    prints = {Function(lambda value: value, takes=(kind,), gives=Query).fingerprint() for kind in kinds}
    assert len(prints) == len(kinds)


def test_a_model_that_moved_is_the_same_but_its_name_is_a_setting(world: World) -> None:
    stages: list[Stage] = [table("regard.stages")["AttentionReranker"](lm=lm, policy="ICR")
                           for lm in (world.lm, world.lm_moved)]
    assert stages[0].identity() == stages[1].identity()


# -- settings within settings --------------------------------------------------------------

NEEDS: dict[str, Settings] = {"stride": {"window": 4}}
"""Settings that another cannot be set without."""


def _another(policy: Policy, setting: str) -> Policy | None:
    """The policy with another value of ``setting``; None where there is only one."""
    for candidate in CANDIDATES:
        try:
            made = type(policy)(**{**NEEDS.get(setting, {}), setting: candidate})
        except ConfigError:
            continue
        if getattr(made, setting) != getattr(policy, setting):
            return made
    return None


@pytest.mark.parametrize("name", Policy.table().names())
def test_a_policys_settings_and_class_are_in_the_rerankers(name: str) -> None:
    kind, policy_kind = table("regard.stages")["AttentionReranker"], Policy.table()[name]
    policy, types = policy_kind(), get_type_hints(policy_kind)

    class Mine(policy_kind):
        pass

    others = {setting: _another(policy, setting) for setting in types if setting in policy_kind.setting_names()}
    only_one = {setting for setting, other in others.items() if other is None}
    assert all(_is_single(types[setting]) for setting in only_one), f"no other value of {only_one} is tried"
    bare = [policy_kind(**needed) for setting, needed in NEEDS.items() if setting in others]
    made = [kind(policy=p) for p in (policy, Mine(), *bare, *(other for other in others.values() if other is not None))]
    assert len({stage.fingerprint() for stage in made}) == len(made)


def _is_single(annotation: Any) -> bool:
    return annotation in (None, type(None)) or len(getattr(annotation, "__args__", ())) == 1
