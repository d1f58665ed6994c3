from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from regard.rag import Batch, Pipeline, Query, Ranking, Stage
from regard.rag.app.presets import default_pipeline
from regard.rag.dag.config import dump, parse
from regard.rag.errors import ConfigError, PipelineError, PortTypeError
from regard.retrievers import BM25

GOOD = """
regard: 2
name: two
stages:
  fused: {part: Fuse, inputs: [bm25, dense], method: minmax, weights: [1, 2.5]}
  bm25: {part: BM25, inputs: [query], index: my-index, k: 20}
  dense: {part: Dense, inputs: [query], index: my-index}
outputs: {passages: fused}
"""


def parsed(text: str, **settings: Any) -> Pipeline:
    name, plan = parse(text, settings, "x.yaml")
    return Pipeline(name, plan=plan)


def dumped(pipeline: Pipeline) -> str:
    return dump(pipeline.plan(), pipeline.name)


def test_a_file_may_name_stages_in_any_order_and_round_trips(tmp_path: Path) -> None:
    pipeline = parsed(GOOD)
    assert list(pipeline.nodes) == ["bm25", "dense", "fused"]
    path = tmp_path / "p.yaml"
    pipeline.save(path)
    again = Pipeline.load(path)
    assert again.graph() == pipeline.graph()
    assert dumped(again) == dumped(pipeline) == path.read_text()
    assert again.plan() == pipeline.plan()


def test_the_default_pipeline_round_trips(facts_index: Path, tmp_path: Path) -> None:
    pipeline = default_pipeline(facts_index)
    pipeline.save(tmp_path / "p.yaml")
    assert Pipeline.load(tmp_path / "p.yaml").graph() == pipeline.graph()


def test_settings_given_at_load_reach_every_stage_that_has_them() -> None:
    pipeline = parsed(GOOD, index="elsewhere", nothing=1)
    assert {str(pipeline.nodes[n].stage.settings()["index"]) for n in ("bm25", "dense")} == {"elsewhere"}


@pytest.mark.parametrize(("change", "message"), [
    (("regard: 2", "regard: 3"), "another form (regard: 3)"),
    (("part: BM25", "part: BM26"), "did you mean BM25"),
    (("part: BM25", "part: 3"), "names no Stage"),
    (("part: BM25", "stage: BM25"), "part for stage"),
    (("k: 20", "k: lots"), "k: Input should be a valid integer"),
    (("k: 20", "kk: 20"), "kk: there is no such setting"),
    (("k: 20", "settings: {k: 20}"), "settings: there is no such setting"),
    (("[bm25, dense]", "{ranking: bm25}"), "has no port 'ranking'"),
    (("[query], index: my-index, k", "[query.text], index: my-index, k"), "'query.text'"),
    (("inputs: [bm25, dense]", "inputs: [bm25.hits, dense]"), "write bm25"),
    (("inputs: [bm25, dense]", "inputs: [bm25, sparse]"), "takes its input from 'sparse'"),
    (("passages: fused", "passages: fusion"), "takes its input from 'fusion', which does not exist"),
    (("outputs:", "output:"), "'output' is no part of it"),
    (("name: two", "name: [two"), "not YAML"),
    (("name: two", "inputs: {query: Question}"), "has the type 'Question'"),
])
def test_a_wrong_file_says_what_and_where(change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises((ConfigError, PipelineError)) as caught:
        parse(GOOD.replace(*change), {}, "wrong.yaml")
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert message in text
    assert "wrong.yaml" in text


def test_a_cycle_is_named() -> None:
    text = GOOD.replace("inputs: [query], index: my-index, k: 20", "inputs: [fused]")
    with pytest.raises(PipelineError, match=r"cycle: .*fused.*bm25"):
        parse(text, {}, "x.yaml")


def test_types_that_do_not_meet_in_a_file_name_the_place() -> None:
    with pytest.raises(PortTypeError) as caught:
        parse(GOOD.replace("inputs: [bm25, dense]", "inputs: [bm25, query]"), {}, "x.yaml")
    assert caught.value.__notes__ == ["in x.yaml, stages.fused"]


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("regard: !!python/object/apply:os.system ['touch /tmp/owned']\n")
    with pytest.raises(ConfigError, match="not YAML"):
        Pipeline.load(path)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Pipeline.load(tmp_path / "none.yaml")


def test_a_stage_that_is_not_registered_cannot_be_saved(tmp_path: Path) -> None:
    class Mine(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Ranking]:
            raise AssertionError

    p = Pipeline()
    p.output(hits=p.add(Mine(), p.input(Query)))
    with pytest.raises(ConfigError, match=r"a file cannot name .*Mine: it was defined inside a function"):
        p.save(tmp_path / "p.yaml")
    assert not (tmp_path / "p.yaml").exists()


def test_a_stage_that_borrows_a_registered_name_cannot_be_saved(tmp_path: Path) -> None:
    class Fake(BM25): ...

    Fake.__name__ = "BM25"
    p = Pipeline()
    p.output(hits=p.add(Fake("x"), p.input(Query)))
    with pytest.raises(ConfigError, match="a file cannot name"):
        p.save(tmp_path / "p.yaml")
