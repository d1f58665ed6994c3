"""An index that an encoder object made: searched, extended and refused with that object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regard.indexers import LanceStore, build_index
from regard.indexers.encoders.dense import SentenceTransformerEncoder
from regard.rag import Document, Pipeline, Query
from regard.rag.app.cli import app
from regard.rag.errors import ConfigError, FingerprintMismatch, IndexNotFound, PipelineError
from regard.rag.models.encoding import close_encoder, encoder, open_encoder
from regard.retrievers import Dense
from typer.testing import CliRunner


class Counted:
    """Any object with the protocol's methods; its fingerprint says as little as it may. Fails when it is used closed."""

    name = "mine"
    dimension = 8

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.is_open = False

    def fingerprint(self) -> dict[str, Any]:
        return {"seed": self.seed, "dimension": 8}

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def truncated(self, texts: Any) -> int:
        return 0

    def encode_passages(self, texts: Any) -> Any:
        assert self.is_open
        return np.stack([np.random.default_rng([self.seed, *text.encode()]).standard_normal(8, np.float32) for text in texts])

    encode_queries = encode_passages


def _search(stage: Dense) -> Pipeline:
    p = Pipeline()
    return p.output(hits=p.add(stage, p.input(Query)))


def _build(facts: list[Document], path: Path, one: Any) -> Any:
    return build_index([Document(d.id, d.text) for d in facts], path, encoder=one, chunker="whole", progress=False)


@pytest.fixture
def mine(facts: list[Document], tmp_path: Path) -> Path:
    _build(facts, tmp_path / "mine", Counted())
    return tmp_path / "mine"


def test_the_object_that_indexed_searches(facts: list[Document], mine: Path) -> None:
    p = _search(Dense(mine, k=3, encoder=Counted()))
    ranking = p.run(facts[4].text).hits
    assert ranking[0].passage.document_id == facts[4].id
    same = Counted()
    same.open()
    scores = same.encode_passages([d.text for d in facts]) @ same.encode_queries([facts[4].text])[0]
    assert np.allclose(ranking.scores, np.sort(scores)[::-1][:3], atol=1e-5)
    assert ranking.space == "inner-product"  # nothing says that its vectors have length 1


def test_it_indexes_again_while_it_is_searching(facts: list[Document], mine: Path) -> None:
    one = Counted()
    with _search(Dense(mine, encoder=one)) as p, _search(Dense(mine, encoder=one)) as q:
        assert build_index([Document("new", "A new fact.")], mine, encoder=one, progress=False).encoded == 1
        q.close()
        assert len(p.run("x").hits) == len(facts)
    assert not one.is_open
    assert len(_search(Dense(mine, encoder=one)).run("x").hits) == len(facts) + 1


def test_an_object_is_closed_by_its_last_holder() -> None:
    one = Counted()
    open_encoder(one)
    open_encoder(one)
    close_encoder(one)
    assert one.is_open
    close_encoder(one)
    assert not one.is_open
    close_encoder(one)  # one that was never opened here is left alone


def test_another_object_is_refused_with_both_fingerprints(facts: list[Document], mine: Path) -> None:
    problems = "\n".join(map(str, _search(Dense(mine, encoder=Counted(seed=1))).check()))
    assert "'seed': 0" in problems
    assert "'seed': 1" in problems
    with pytest.raises(FingerprintMismatch):
        Dense(mine, encoder=Counted(seed=1)).open()
    with pytest.raises(FingerprintMismatch):
        _build(facts, mine, Counted(seed=1))
    other = Counted()
    other.name = "other"
    with pytest.raises(IndexNotFound, match="no vectors of 'other'; it has mine"):
        Dense(mine, encoder=other).open()
    assert len(LanceStore(mine)) == len(facts)


@pytest.mark.parametrize("made", ["small", "hash", "subclass"])
@pytest.mark.parametrize("named", [None, True])
def test_without_the_object_the_error_says_that_one_made_the_index(
    facts: list[Document], tmp_path: Path, hash_encoder: Any, made: str, named: bool | None,
) -> None:
    class Reversed(SentenceTransformerEncoder):
        def encode_passages(self, texts: Any) -> Any:
            return super().encode_passages([text[::-1] for text in texts])

    one = {"small": Counted, "hash": lambda: hash_encoder(8), "subclass": lambda: Reversed("minilm")}[made]()
    _build(facts, tmp_path, one)
    p = _search(Dense(tmp_path, encoder=one.name if named else None))
    assert "made by an encoder object" in str(p.check()[0])
    assert "Dense(index, encoder=...)" in str(p.check()[0])
    with pytest.raises(PipelineError, match="made by an encoder object"):
        p.run("x")
    with pytest.raises(ConfigError, match="made by an encoder object"):
        build_index(facts, tmp_path, progress=False)
    assert len(_search(Dense(tmp_path, k=4, encoder=one)).run("x").hits) == 4


def test_the_command_line_says_it_too(mine: Path) -> None:
    with pytest.raises(PipelineError, match=r"made by an encoder object(.|\n)*pass that object: Dense\(index, encoder=\.\.\.\)"):
        CliRunner().invoke(app, ["search", str(mine), "x"], catch_exceptions=False)


def test_an_object_of_ours_is_found_again_by_name(facts: list[Document], tmp_path: Path) -> None:
    one = SentenceTransformerEncoder("minilm", dimension=32, passage_prompt="text: ")
    _build(facts, tmp_path, one)
    by_object, by_name = (_search(Dense(tmp_path, encoder=e)).run("how long does a flea live").hits for e in (one, None))
    assert by_object.rows.tolist() == by_name.rows.tolist()
    with pytest.raises(FingerprintMismatch):
        Dense(tmp_path, encoder=encoder("minilm")).open()


def test_a_pipeline_that_holds_an_object_is_not_saved(mine: Path, tmp_path: Path) -> None:
    p = _search(Dense(mine, encoder=Counted()))
    with pytest.raises(ConfigError, match="a file cannot hold the setting 'encoder'"):
        p.save(tmp_path / "p.yaml")
    assert not (tmp_path / "p.yaml").exists()
    assert "Counted" in p.to_mermaid() + p.to_svg() + repr(p.nodes["dense"].stage)


def test_its_fingerprint_is_part_of_the_stages(mine: Path) -> None:
    prints = {Dense(mine, encoder=one).fingerprint() for one in (None, Counted(), Counted(), Counted(seed=1))}
    assert len(prints) == 3
