"""Every registered stage: each of its settings, and each thing that it reads from outside, moves its fingerprint.

What does not move it is answered out of the stage cache as if nothing had changed. A stage that is registered without a case here
fails, and so does a setting without another value to give it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import numpy as np
import pytest
import transformers
from regard.indexers import LanceStore, build_index
from regard.indexers.stores.lance.writer import StoreWriter, locked
from regard.indexers.views import build_view, parse_view
from regard.rag import Document
from regard.rag.dag.stage import Stage
from regard.rag.errors import ConfigError
from regard.rag.lm import gguf
from regard.rag.lm.heads import HeadSet
from regard.rag.models import resolve, weights_hash
from regard.rag.tables import table
from regard.rerankers import Policy

DOCUMENTS = [Document(f"d{i}", f"word{i} and word{i % 7} stand in passage number {i}") for i in range(40)]
MODEL_FILES = {
    "model.safetensors": "weights", "pytorch_model.bin": "weights", "model.onnx_data": "weights", "config.json": '{"hidden_size": 8}',
    "tokenizer.json": '{"version": "1.0"}', "tokenizer_config.json": "{}", "vocab.txt": "a\nb", "spiece.model": "pieces",
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
    """``made_with``: settings to start from. ``other``: for each setting another value. ``outside``: by name, what changes beneath a
    stage that was made with the settings beside it."""

    made_with: Callable[[World], Settings]
    other: Callable[[World], Settings]
    outside: dict[str, tuple[Callable[[World], Settings], Change]] = field(default_factory=dict)


# -- what changes outside -----------------------------------------------------------------


def _index_shrinks(world: World) -> None:
    """The store alone moves on; the views follow when they are opened."""
    path = Path(world.index)
    with locked(path):
        StoreWriter(path, chunker=LanceStore(path).manifest["chunker"]).delete(["d0"])


def _rebuilt_as(view: str) -> Change:
    """The index's view of this kind, built again with these parameters."""
    return lambda world: build_view(LanceStore(world.index), parse_view(view, "hash_encoder"), progress=False) and None


def _rebuilt_from_nothing(slug: str) -> Change:
    """The same parameters: an approximate index that grew is not the one that is built in one go."""
    def change(world: World) -> None:
        store = LanceStore(world.index)
        (folder,) = Path(world.index, "views", slug).glob("*/")
        spec = json.loads((folder / "view.json").read_text())["spec"]
        shutil.rmtree(folder)
        build_view(store, parse_view(spec["kind"], spec["encoder"]), progress=False)
    return change


def _file(folder: str, name: str) -> Change:
    def change(world: World) -> None:
        path = Path(getattr(world, folder), name)
        path.write_bytes(path.read_bytes().replace(b"}", b" }") + b" ")  # still JSON where it was
    return change


def _files_of(folder: str, made_with: Callable[[World], Settings]) -> dict[str, tuple[Callable[[World], Settings], Change]]:
    return {f"{folder}/{name}": (made_with, _file(folder, name)) for name in MODEL_FILES}


def _other_heads(world: World) -> None:
    _head_set(Path(world.lm), Path(world.heads), seed=2)


def _cached_in_bits(bits: int) -> Change:
    return lambda world: build_view(LanceStore(world.cached), parse_view(f"attention:{world.lm},bits={bits}"), progress=False) and None


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
    return {"verifier's weights": (lambda world: {**made_with(world), "verifier": f"lm:{world.lm}"}, _file("lm", "model.safetensors"))}


def _first(**settings: Any) -> Callable[[World], Settings]:
    return lambda world: {"index": world.index, **settings}


READING: Settings = {
    "depth": 3, "budget": 99, "order": "best-first", "system": None, "instruction": "{passages} So: {question}", "min_support": 0.9,
    "max_new_tokens": 7, "temperature": 0.5, "top_p": 0.5, "seed": 9, "verifier": None,
}

CASES: dict[str, Case] = {
    "BM25": Case(_first(), lambda world: {"index": world.other, "k": 7, "filters": {"id": "d1"}}, {
        "index version": (_first(), _index_shrinks),
        "view's parameters": (_first(), _rebuilt_as("bm25,k1=2,b=0.9")),
        "view's build": (_first(), _rebuilt_from_nothing("bm25")),
    }),
    "Dense": Case(
        _first(view="faiss:hnsw"),
        lambda world: {"index": world.other, "k": 7, "encoder": "hash-encoder", "view": "faiss:flat", "filters": {"id": "d1"},
                       "device": "cpu"},
        {
            "index version": (_first(view="faiss:flat"), _index_shrinks),
            "view's parameters": (_first(view="faiss:hnsw"), _rebuilt_as("faiss:hnsw,m=8")),
            "view's build": (_first(view="faiss:hnsw"), _rebuilt_from_nothing("faiss-hnsw-hash_encoder")),
        }),  # other weights of the encoder are refused by check and open: test_check_shows_both_fingerprints_of_another_encoder
    "Fuse": Case(lambda world: {}, lambda world: {"method": "zscore", "weights": [1.0, 2.0], "c": 1.0, "k": 7}),
    "Parents": Case(lambda world: {}, lambda world: {"k": 7}),
    "CrossEncoder": Case(
        lambda world: {"model": world.fake},
        lambda world: {"model": world.fake2, "depth": 7, "max_length": 99, "batch_tokens": 99, "device": "cpu"},
        _files_of("fake", lambda world: {"model": world.fake})),
    "AttentionReranker": Case(
        _attention,
        lambda world: {"lm": world.lm_moved, "policy": {"part": "BlockICR", "heads": world.heads, "top": 3}, "depth": 7, "task": "qa",
                       "max_words": 9, "turn": ("<", ">"), "keep_tail": True, "cache": world.cached, "share": 2, "device": "cpu"},
        {
            "head set": (_attention, _other_heads),
            "cached keys and values": (lambda world: {**_attention(world), "cache": world.cached}, _cached_in_bits(8)),
            "weights": (lambda world: {"lm": world.lm, "policy": "ICR"}, _file("lm", "model.safetensors")),
            "tokenizer": (lambda world: {"lm": world.lm, "policy": "ICR"}, _file("lm", "tokenizer.json")),
            "configuration": (lambda world: {"lm": world.lm, "policy": "ICR"}, _file("lm", "config.json")),
        }),
    "Reader": Case(
        _reader,
        lambda world: {**READING, "lm": world.fake2, "embedder": world.fake2, "stop": ["."], "mask": "block", "device": "cpu"},
        {**_files_of("fake", _reader), **_files_of("embedder", _reader), **_verified(_reader)}),
    "RemoteReader": Case(
        _remote,
        lambda world: {**READING, "model": "n", "base_url": "http://localhost:2/v1", "api_key_env": "OTHER_KEY", "tokenizer": world.fake2,
                       "timeout": 9.0, "deadline": 9.0, "retries": 0, "concurrency": 1, "embedder": world.fake2,
                       "parameters": {"top_k": 3}},
        {**_files_of("fake", _remote), **_files_of("embedder", _remote), **_verified(_remote)}),
}

SETTINGS = [(name, setting) for name in table("regard.stages").names() for setting in table("regard.stages")[name].setting_names()]
OUTSIDE = [(name, what) for name, case in CASES.items() for what in case.outside]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, hash_encoder: Any) -> World:
    """Nothing changes in it; :func:`changing` is a copy."""
    made = World(tmp_path_factory.mktemp("world"))
    for name in ("index", "other"):
        for passages in (30, 40):  # grown, so that its approximate view was extended
            build_index(DOCUMENTS[:passages], getattr(made, name), encoder=hash_encoder(8), chunker="whole", progress=False,
                        views=["bm25", "faiss:flat", "faiss:hnsw"])
    for name in ("fake", "fake2", "embedder"):
        Path(getattr(made, name)).mkdir()
        for file, content in MODEL_FILES.items():
            Path(getattr(made, name), file).write_text(content)
    _tiny_model(Path(made.lm))
    shutil.copytree(made.lm, made.lm_moved)
    _head_set(Path(made.lm), Path(made.heads), seed=1)
    build_index(DOCUMENTS[:3], made.cached, encoder=None, chunker="whole", views=["bm25"], progress=False)
    _cached_in_bits(16)(made)
    return made


def _tiny_model(folder: Path) -> None:
    """A random language model with SmolLM2's tokenizer."""
    transformers.set_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in gguf.converted(resolve("smollm2")).iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)


@pytest.fixture
def changing(world: World, tmp_path: Path) -> Iterator[World]:
    shutil.copytree(world.root, tmp_path / "world")
    yield World(tmp_path / "world")
    shutil.rmtree(tmp_path / "world")


def _fingerprint(name: str, settings: Settings) -> str:
    stage = table("regard.stages")[name](**settings)
    try:
        return stage.fingerprint()
    finally:
        stage.close()


def test_every_registered_stage_has_a_case(world: World) -> None:
    assert set(CASES) == set(table("regard.stages").names())
    for name, case in CASES.items():
        assert set(case.other(world)) == set(table("regard.stages")[name].setting_names()), f"a setting of {name} has no other value here"


@pytest.mark.parametrize("name", table("regard.stages").names())
def test_the_same_is_the_same(name: str, world: World) -> None:
    case = CASES[name]
    for made_with in (case.made_with, *(settings for settings, _ in case.outside.values())):
        assert _fingerprint(name, made_with(world)) == _fingerprint(name, made_with(world))


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_a_setting_moves_the_fingerprint(name: str, setting: str, world: World) -> None:
    settings = CASES[name].made_with(world)
    changed = {**settings, setting: CASES[name].other(world)[setting]}
    assert _fingerprint(name, changed) != _fingerprint(name, settings)


@pytest.mark.parametrize(("name", "what"), OUTSIDE)
def test_what_is_read_from_outside_moves_the_fingerprint(name: str, what: str, changing: World) -> None:
    made_with, change = CASES[name].outside[what]
    before = _fingerprint(name, made_with(changing))
    change(changing)
    assert _fingerprint(name, made_with(changing)) != before


@pytest.mark.parametrize("name", table("regard.stages").names())
def test_the_class_its_version_and_the_name_move_it(name: str, world: World) -> None:
    kind, settings = table("regard.stages")[name], CASES[name].made_with(world)

    class Another(kind):
        pass

    class Newer(kind):
        version: ClassVar[int] = kind.version + 1

    for one in (Another, Newer):
        one.__name__ = kind.__name__  # a stage without a name is called by its class
    Newer.__qualname__, Newer.__module__ = kind.__qualname__, kind.__module__
    stages = [kind(**settings), kind(**settings), Another(**settings), Newer(**settings)]
    stages[1].name = "else"  # a name stands in every hit's history
    try:
        assert len({stage.fingerprint() for stage in stages}) == 4
    finally:
        for stage in stages:
            stage.close()


def test_the_server_that_the_environment_names_moves_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**_remote(world), "base_url": None}
    before = _fingerprint("RemoteReader", settings)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:3/v1")
    assert _fingerprint("RemoteReader", settings) != before


def test_a_model_that_moved_is_the_same_but_its_name_is_a_setting(world: World) -> None:
    stages: list[Stage] = [table("regard.stages")["AttentionReranker"](lm=lm, policy="ICR") for lm in (world.lm, world.lm_moved)]
    assert stages[0].state() == stages[1].state()


# -- settings within settings --------------------------------------------------------------

CANDIDATES = (None, "else", "best-first", "best-last", "ndcg", "qrhead_ndcg", "qrhead_score", "core_score", True, False, 0.25, 0.5,
              1, 2, 3, 0)

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
    assert len({json.dumps(stage.identity()) for stage in made}) == len(made)


def _is_single(annotation: Any) -> bool:
    return annotation in (None, type(None)) or len(getattr(annotation, "__args__", ())) == 1
