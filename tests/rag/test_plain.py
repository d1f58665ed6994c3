"""YAML and JSON from others."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from regard.rag import Pipeline
from regard.rag.errors import ConfigError
from regard.rag.lm.heads import HeadSet, published_heads
from regard.rag.plain import DEEPEST, MOST_YAML, parse_json, parse_yaml

PIPELINE = """regard: 2
stages:
  bm25: {part: BM25, inputs: [query], index: i, filters: FILTERS}
outputs: {passages: bm25}
"""


def _bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "{" + ", ".join(lines) + "}"


@pytest.mark.parametrize(("text", "says"), [
    (PIPELINE.replace("FILTERS", _bomb(9)), "line 3"),
    ("a: &x 1", "anchors and aliases"),
    ("a: *x", "anchors and aliases"),
    ("&x a: 1", "anchors and aliases"),
    ("<<: {a: 1}", "merge keys"),
    ("regard: 1\nname: x\nname: y\n", "'name' stands twice, first in line 2"),
    ("a: {b: 1, c: 2, b: 3}", "'b' stands twice"),
    ("1: a\n1.0: b\n", "stands twice"),
    ("? [1, 2]\n: x", "a key must be plain"),
    ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"more than {DEEPEST} levels"),
    ("[" * 100_000, f"more than {DEEPEST} levels"),
    ("- " * 60_000, f"more than {DEEPEST} levels"),
    ("{a: " * 20_000, f"more than {DEEPEST} levels"),
    ("a: " + "x" * MOST_YAML, "more than"),
    ("a: 2001-99-99", "month"),
    ("a: " + "9" * 5000, "digits"),
    ("a: !!bool maybe", "not YAML"),
    ("a: !!timestamp x", "not YAML"),
    ("a: !!int ''", "not YAML"),
    ("a: !!python/name:os.system x", "could not determine a constructor"),
])
def test_what_can_grow_or_hide_is_refused(text: str, says: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "their.yaml")
    assert says in caught.value.what
    assert caught.value.where == "their.yaml"
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("text", [
    "a: b\n" * 12_000, "a: [" + "x, " * 20_000 + "]", "a: '" + "''" * 60_000 + "'", "a: \"" + "\\x41" * 30_000 + "\"",
    "# c\n" * 30_000,
    "a: |\n" + "  x\n" * 30_000, "k" * 120_000, "? " * 60_000, "!" * 120_000, "a: >\n" + "\n" * 120_000, "%T " * 40_000,
    "a:\t" * 40_000,
])
def test_a_file_of_the_largest_size_is_read_in_seconds(text: str) -> None:
    begun = time.perf_counter()
    with suppress(ConfigError):
        parse_yaml(text, "x")
    assert time.perf_counter() - begun < 20


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_plain_data_comes_back(data: object) -> None:
    assert parse_yaml(yaml.safe_dump(data, allow_unicode=True),
                      "x") == yaml.safe_load(yaml.safe_dump(data, allow_unicode=True))


@given(st.text(alphabet="ab:-{}[]&*!|>%@`\"'#?,<\n \t01=.~", max_size=40))
def test_any_text_is_data_or_a_config_error(text: str) -> None:
    try:
        found = parse_yaml(text, "x")
    except ConfigError:
        return
    assert found == yaml.safe_load(text) or found != found or isinstance(found, list | dict | float)


def test_a_file_is_not_read_beyond_the_limit() -> None:
    with pytest.raises(ConfigError, match="more than"):
        Pipeline.load("/dev/zero")


def test_many_stages_and_diamonds_end(tmp_path: Path) -> None:
    fused = "\n".join(f"  f{i}: {{part: Fuse, inputs: [{'f' + str(i - 1) if i else 'bm25'}, {'f' + str(i - 1) if i else 'bm25'}]}}"  # noqa: E501
                      for i in range(150))
    text = PIPELINE.replace("FILTERS", "{}").replace("outputs: {passages: bm25}",
                                                     f"{fused}\noutputs: {{passages: f149}}")
    (tmp_path / "p.yaml").write_text(text)
    begun = time.perf_counter()
    Pipeline.load(tmp_path / "p.yaml", index=tmp_path).check()
    assert time.perf_counter() - begun < 10
    many = "\n".join(f"  s{i}: {{part: BM25, inputs: [query]}}" for i in range(300))
    (tmp_path / "p.yaml").write_text(f"regard: 2\nstages:\n{many}\noutputs: {{passages: s0}}")
    with pytest.raises(ConfigError, match="at most 200"):
        Pipeline.load(tmp_path / "p.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, '{"format": 1, "format": "regard-heads/1"}',
                                  _bomb(9), "9" * 5000])
def test_head_files_from_others_give_a_typed_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "heads"
    file.write_text(text)
    for read in (HeadSet.load, published_heads):
        with pytest.raises(ConfigError, match="no head set"):
            read(file)
    with pytest.raises(ValueError, match="twice"):
        parse_json('{"a": 1, "b": {"c": 1, "c": 2}}')
