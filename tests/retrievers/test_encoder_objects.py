"""An index that an encoder object made: searched, extended and refused with that object."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from regard.indexers import build_index
from regard.indexers.encoders.dense import SentenceTransformerEncoder
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Document, Pipeline, Query
from regard.rag.app.cli import app
from regard.rag.dag.scope import Scope
from regard.rag.errors import ConfigError, FingerprintMismatch, IndexNotFound, PipelineError
from regard.rag.models.encoding import Encoder, OpenEncoder
from regard.rag.parts import part
from regard.retrievers import Dense
from typer.testing import CliRunner


class OpenCounted(OpenEncoder):
    """Random vectors by the text. Fails when it is used after its scope was closed."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.dimension, self.seed = name, 8, seed
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def encode_passages(self, texts: Any) -> Any:
        assert self.is_open
        return np.stack([np.random.default_rng([self.seed, *text.encode()]).standard_normal(8, np.float32)
                         for text in texts])


def counted(seed: int = 0, called: str = "mine", opened: list[OpenCounted] | None = None) -> Encoder:
    """An encoder of a class that no file can name; its description says as little as it may. ``opened`` gets what it
    opens."""
    class Counted(Encoder):
        name: ClassVar[str] = called
        dimension: ClassVar[int] = 8
        seed: int = 0

        def description(self) -> dict[str, Any]:
            return {"seed": self.seed, "dimension": 8}

        def open(self, scope: Scope, /) -> OpenCounted:
            made = OpenCounted(self.name, self.seed)
            scope.callback(made.close)
            if opened is not None:
                opened.append(made)
            return made

    return Counted(seed=seed)


class Importable(Encoder):
    """An encoder that a file can name, by its import place."""

    name: ClassVar[str] = "importable"
    dimension: ClassVar[int] = 8
    seed: int = 3

    def description(self) -> dict[str, Any]:
        return {"seed": self.seed, "dimension": 8}

    def open(self, scope: Scope, /) -> OpenCounted:
        return OpenCounted(self.name, self.seed)


def _search(stage: Dense) -> Pipeline:
    p = Pipeline()
    return p.output(hits=p.add(stage, p.input(Query)))


def _build(facts: list[Document], path: Path, one: Any) -> Any:
    return build_index([Document(d.id, d.text) for d in facts], path, encoder=one, chunker="whole", progress=False)


@pytest.fixture
def mine(facts: list[Document], tmp_path: Path) -> Path:
    _build(facts, tmp_path / "mine", counted())
    return tmp_path / "mine"


def test_the_object_that_indexed_searches(facts: list[Document], mine: Path) -> None:
    p = _search(Dense(mine, k=3, encoder=counted()))
    ranking = p.run(facts[4].text).hits
    assert ranking[0].passage.document_id == facts[4].id
    same = OpenCounted("mine", 0)
    scores = same.encode_passages([d.text for d in facts]) @ same.encode_queries([facts[4].text])[0]
    assert np.allclose(ranking.scores, np.sort(scores)[::-1][:3], atol=1e-5)
    assert ranking.space == "inner-product"  # nothing says that its vectors have length 1


def test_it_indexes_again_while_it_is_searching(facts: list[Document], mine: Path) -> None:
    """Each that opens it has its own, which closes with it: a job's end or another pipeline's closes nobody else's."""
    opened: list[OpenCounted] = []
    one = counted(opened=opened)
    with _search(Dense(mine, encoder=one)) as p, _search(Dense(mine, encoder=one)) as q:
        assert build_index([Document("new", "A new fact.")], mine, encoder=one, progress=False).encoded == 1
        q.close()
        assert [held.is_open for held in opened] == [True, False, False]
        assert len(p.run("x").hits) == len(facts)
    assert not any(held.is_open for held in opened)
    assert len(_search(Dense(mine, encoder=one)).run("x").hits) == len(facts) + 1


def test_one_pipeline_opens_it_once(mine: Path) -> None:
    opened: list[OpenCounted] = []
    one = counted(opened=opened)
    p = Pipeline()
    query = p.input(Query)
    with p.output(a=p.add(Dense(mine, k=2, encoder=one), query), b=p.add(Dense(mine, k=3, encoder=one), query)):
        assert len(p.run("x").b) == 3
        assert [held.is_open for held in opened] == [True]
    assert [held.is_open for held in opened] == [False]


def test_another_object_is_refused_with_both_fingerprints(facts: list[Document], mine: Path) -> None:
    problems = "\n".join(map(str, _search(Dense(mine, encoder=counted(1))).check()))
    assert "'seed': 0" in problems
    assert "'seed': 1" in problems
    with pytest.raises(FingerprintMismatch), Dense(mine, encoder=counted(1)).opened():
        pass
    with pytest.raises(FingerprintMismatch):
        _build(facts, mine, counted(1))
    with pytest.raises(IndexNotFound,
                       match="no vectors of 'other'; it has mine"), Dense(mine, encoder=counted(0, "other")).opened():
        pass
    assert len(LanceStore(mine)) == len(facts)


def reversing() -> Encoder:
    """A subclass of ours."""
    class Reversed(SentenceTransformerEncoder):
        def open(self, scope: Scope, /) -> OpenEncoder:
            opened = super().open(scope)
            encode = opened.encode_passages
            opened.encode_passages = lambda texts: encode([text[::-1] for text in texts])
            return opened

    return Reversed("minilm")


@pytest.mark.parametrize("make", [counted, reversing])
def test_without_the_object_the_error_says_that_one_made_the_index(facts: list[Document], tmp_path: Path,
                                                                   make: Any) -> None:
    _build(facts, tmp_path, make())
    p = _search(Dense(tmp_path))
    assert "made by an encoder object" in str(p.check()[0])
    assert "Dense(index, encoder=...)" in str(p.check()[0])
    with pytest.raises(PipelineError, match="made by an encoder object"):
        p.run("x")
    with pytest.raises(ConfigError, match="made by an encoder object"):
        build_index(facts, tmp_path, progress=False)
    assert len(_search(Dense(tmp_path, k=4, encoder=make())).run("x").hits) == 4


def test_its_name_is_no_models(mine: Path) -> None:
    """A text names a model: the object's name alone gives it to nobody."""
    (problem,) = _search(Dense(mine, encoder="mine")).check()
    assert problem.fatal
    assert "the encoder 'mine' cannot be loaded" in problem.what


def test_a_subclass_of_ours_is_not_taken_for_its_parent(facts: list[Document], tmp_path: Path) -> None:
    _build(facts, tmp_path, reversing())
    assert "made by another encoder" in str(_search(Dense(tmp_path, encoder="minilm")).check()[0])


def test_one_of_a_module_is_found_again_by_its_import_place(facts: list[Document], tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the module was imported: an index loads no code."""
    _build(facts, tmp_path, Importable(seed=4))
    found = [_search(Dense(tmp_path, encoder=e)).run("fleas").hits for e in (None, Importable(4))]
    assert found[0] == found[1]
    with pytest.raises(FingerprintMismatch):
        _build(facts, tmp_path, Importable())
    monkeypatch.delitem(sys.modules, Importable.__module__)
    assert "made by an encoder object" in str(_search(Dense(tmp_path)).check()[0])
    assert Importable.__module__ not in sys.modules


def test_the_command_line_says_it_too(mine: Path) -> None:
    with pytest.raises(PipelineError,
                       match=r"made by an encoder object(.|\n)*pass that object: Dense\(index, encoder=\.\.\.\)"):
        CliRunner().invoke(app, ["search", str(mine), "x"], catch_exceptions=False)


def test_an_object_of_ours_is_found_again_by_name(facts: list[Document], tmp_path: Path) -> None:
    one = SentenceTransformerEncoder("minilm", truncate_dim=32, passage_prompt="text: ")
    _build(facts, tmp_path, one)
    by_object, by_name = (_search(Dense(tmp_path, encoder=e)).run("how long does a flea live").hits
                          for e in (one, None))
    assert by_object.rows.tolist() == by_name.rows.tolist()
    by_model = _search(Dense(tmp_path, encoder="minilm")).run("how long does a flea live").hits
    assert by_model.rows.tolist() == by_name.rows.tolist(), "a model's name alone means it as the index uses it"
    for other in (part(Encoder, "minilm"), "minilm:normalize=false"):
        with pytest.raises(FingerprintMismatch), Dense(tmp_path, encoder=other).opened():
            pass


def test_a_pipeline_that_holds_an_object_is_not_saved(mine: Path, tmp_path: Path) -> None:
    p = _search(Dense(mine, encoder=counted()))
    with pytest.raises(ConfigError, match=r"a file cannot name .*Counted: it was defined inside a function"):
        p.save(tmp_path / "p.yaml")
    assert not (tmp_path / "p.yaml").exists()
    assert "Counted" in p.to_mermaid() + p.to_svg() + repr(p.nodes["dense"].stage)


def test_its_fingerprint_is_part_of_the_stages(mine: Path) -> None:
    prints = [Dense(mine, encoder=one).fingerprint() for one in (None, counted(), counted(), counted(1))]
    assert prints[1] == prints[2]
    assert len(set(prints)) == 3
