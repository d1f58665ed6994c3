"""Functions as stages, and parts that a session registers: by name, in files, and refused with the reason."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from regard.rag import Answer, Batch, Pipeline, Query, Ranking, Stage
from regard.rag.dag.config import dump, parse, schema
from regard.rag.dag.function import Function
from regard.rag.errors import ConfigError, PortTypeError
from regard.rag.parts import part, register
from regard.rag.tables import table
from regard.retrievers import BM25


def shout(query: Query) -> Query:
    return query.derive(query.text.upper())


def numbered(queries: Batch[Query]) -> Batch[Query]:
    return Batch(query.derive(f"{i} {query.text}") for i, query in enumerate(queries, 1))


def joined(query: Query, words: list[str] | None = None, times: int = 2, *, mark: str = "!") -> str:
    return f"{query.text}{mark * times}{'' if words is None else '-'.join(words)}"


def many(*queries: Query) -> str:
    return "+".join(query.text for query in queries)


def of_nothing() -> Query:
    raise AssertionError


def untyped(query, other: Query) -> Query:  # type: ignore[no-untyped-def]  # that is the point
    raise AssertionError


def needs_a_name(query: Query, *, mark: str) -> Query:
    raise AssertionError


class Calls:
    def __call__(self, query: Query) -> Query:
        return shout(query)

    def method(self, query: Query) -> Query:
        return shout(query)


def piped(*functions: Any) -> Pipeline:
    p = Pipeline()
    wire = p.input(Query)
    for function in functions:
        wire = p.add(function, wire)
    return p.output(out=wire)


def again(p: Pipeline) -> Pipeline:
    name, plan = parse(dump(p.plan(), p.name), {}, "x.yaml")
    return Pipeline(name, plan=plan)


def test_a_function_is_called_once_a_value_or_once_a_batch() -> None:
    p = piped(shout, numbered)
    assert list(p.nodes) == ["shout", "numbered"]
    assert [query.text for query in p.run(["a", "b"]).out] == ["1 A", "2 B"]
    assert p.run(["a", "b"]).out[0] == p.run([Query("a", "q1")]).out[0]
    assert [*p.run([]).out] == []
    with pytest.raises(PortTypeError, match=r"port 'query' of stage 'shout_2' \(Function\) takes Batch\[Query\]"):
        p.add(shout, p.input(Ranking))


def test_defaults_several_inputs_and_any_number() -> None:
    p = Pipeline()
    query, words, times = p.input(Query), p.input(list[str]), p.input(int)
    p.output(plain=p.add(joined, query), one=p.add(joined, query, words), named=p.add(joined, query, times=times),
             many=p.add(many, query, p.add(shout, query)))
    result = p.run([Query("a"), Query("b")], [["x", "y"], []], [1, 0])
    assert result.plain == Batch(["a!!", "b!!"])
    assert result.one == Batch(["a!!x-y", "b!!"])
    assert result.named == Batch(["a!", "b"])
    assert result.many == Batch(["a+A", "b+B"])
    assert again(p).plan() == p.plan()


def test_a_lambda_with_types_given_and_other_callables() -> None:
    loud = Function(lambda query: query.derive(query.text + "!"), takes=(Query,), gives=Query)
    assert [query.text for query in piped(loud, shout).run(["a", "b"]).out] == ["A!", "B!"]
    assert loud.default_name() == "function"
    assert piped(Calls().method).run("a").out.text == "A"
    p = piped(Function(functools.partial(joined, mark="?"), takes=(Query, list[str], int), gives=str))
    assert p.run("a").out == "a??"


@pytest.mark.parametrize(("function", "says"), [
    (lambda query: query, r"test_functions:<lambda> cannot be a stage: 'query' has no annotation"),
    (untyped, "'query' has no annotation"),
    (of_nothing, "it takes nothing"), (needs_a_name, "nothing feeds 'mark'"), (str, "is no stage"),
    (len, "has no annotation"),
    (3, "is no stage"), (BM25, "is no stage"), (functools.partial(shout), "test_functions:partial|functools:partial"),
])
def test_what_cannot_be_a_stage_is_refused_with_the_reason(function: Any, says: str) -> None:
    p = Pipeline()
    with pytest.raises(Exception, match=says) as caught:
        p.add(function, p.input(Query))
    assert type(caught.value).__module__ == "regard.rag.errors"


def test_types_that_do_not_go_with_the_parameters_are_refused() -> None:
    for settings in ({"takes": (Query, Query), "gives": Query}, {"takes": (Query,)}):
        with pytest.raises(ConfigError, match=r"takes query\n? ?.*|give a type for each"):
            Function(shout, **settings)
    with pytest.raises(ConfigError, match=r"not.imported was not imported"):
        Function("not.imported:thing")
    with pytest.raises(ConfigError, match="'Query' is no type"):
        Function(shout, takes=["Query"], gives=Query)
    with pytest.raises(ConfigError, match="it is no function"):
        Function(3)


def test_a_function_that_gives_something_else_than_it_says_is_named() -> None:
    def lies(query: Query) -> Answer:
        return query  # type: ignore[return-value]  # that is the point

    with pytest.raises(Exception,
                       match=r"gave Query for query 1 of 1, and its port says Batch\[Answer\] \[stage 'lies'\]"):
        piped(lies).run("a")


def test_a_function_is_saved_by_its_import_place() -> None:
    p = piped(shout, numbered)
    text = dump(p.plan(), "x")
    assert f"function: {__name__}:shout" in text
    assert again(p).plan() == p.plan()
    assert again(p).run("a").out == p.run("a").out


def test_what_no_file_can_name_is_refused_with_the_reason() -> None:
    def within(query: Query) -> Query:
        return query

    lambdas = Function(lambda query: query, takes=(Query,), gives=Query)
    for function, says in ((within, "it was defined inside a function"), (lambdas, "a file cannot"),
                           (Calls().method, "a file cannot"),
                           (Function(shout, takes=(Query,), gives=Query), "is no type")):
        with pytest.raises(ConfigError, match=says):
            dump(piped(function).plan(), "x")


def test_a_file_never_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_module.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from regard.rag import Query\nfrom regard.rag.dag.stage import Stage\n\n"
        "def mine(query: Query) -> Query:\n    return query\n\n\nclass Mine(Stage): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "p.yaml"
    for stage in ("part: Function, function: 'their_module:mine'", "part: 'their_module:Mine'",
                  "part: Function, function: 'their_module.os:system'"):
        file.write_text(f"regard: 2\nstages:\n  a: {{{stage}, inputs: [query]}}\noutputs: {{out: a}}\n")
        with pytest.raises(ConfigError, match=r"their_module.* was not imported"):
            Pipeline.load(file)
    assert not (tmp_path / "ran").exists()
    assert "their_module" not in sys.modules
    for place in ("os:system", "os:getenv", "builtins:eval", "os:nothing", "os:", "os:path.join",
                  "regard.rag.files:write_text"):
        for types in ("", ", takes: [x], gives: y", ", takes: [null], gives: null",
                      ", takes: ['builtins:str'], gives: 'builtins:int'"):
            file.write_text(f"regard: 2\ninputs: {{query: Any}}\nstages:\n  a: "
                            f"{{part: Function, function: '{place}'{types}, "
                            "inputs: [query]}\noutputs: {out: a}\n")
            with pytest.raises(ConfigError, match=r"takes nothing of Regard's|os:|is no type"):
                Pipeline.load(file)


# -- a session's own parts ---------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[None]:
    """What is registered here is gone afterwards."""
    known = table("regard.stages")
    before = dict(known._session)
    yield
    known._session.clear()
    known._session.update(before)


@pytest.mark.usefixtures("session")
def test_a_registered_stage_is_used_by_name_and_a_taken_name_is_refused() -> None:
    @register
    class Murmur(Stage):
        mark: str = "..."

        def run(self, queries: Batch[Query]) -> Batch[Query]:
            return Batch(query.derive(query.text.lower() + self.mark) for query in queries)

    made = part(Stage, "Murmur:mark=?")
    assert made == Murmur("?")
    text = "regard: 2\nstages:\n  a: {part: Murmur, inputs: [query], mark: '~'}\noutputs: {out: a}\n"
    name, plan = parse(text, {}, "x.yaml")
    assert Pipeline(name, plan=plan).run("ABC").out.text == "abc~"
    with pytest.raises(ConfigError, match=r"a file cannot name .*Murmur: it was defined inside a function"):
        dump(piped(Murmur()).plan(), "x")
    for taken in ("Murmur", "BM25"):
        with pytest.raises(ConfigError, match=f"{taken}.*taken|another"):
            @register(name=taken)
            class Other(Stage):
                def run(self, queries: Batch[Query]) -> Batch[Query]:
                    raise AssertionError
    with pytest.raises(ConfigError, match="is no part of a kind"):
        register(int)  # type: ignore[type-var]  # that is the point


def test_a_pipeline_with_a_class_of_a_notebook_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    code = f"""
from regard.rag import Batch, Pipeline, Query, Stage
from regard.rag.errors import ConfigError
from regard.rag.parts import register

@register
class Mine(Stage):
    def run(self, queries: Batch[Query]) -> Batch[Query]:
        return queries

def own(query: Query) -> Query:
    return query

for stage in (Mine(), own):
    p = Pipeline()
    p.output(out=p.add(stage, p.input(Query)))
    try:
        p.save({str(tmp_path / "p.yaml")!r})
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("it was defined in a notebook or a script") == 2
    assert done.stdout.count("put it into a module") == 2
    assert not (tmp_path / "p.yaml").exists()


# -- the schema of files ------------------------------------------------------------------------------


def test_the_schema_accepts_what_is_written_and_refuses_wrong_settings(facts_index: Path) -> None:
    import yaml
    from regard.rag.app.presets import default_pipeline

    whole = schema()
    p = default_pipeline(facts_index)
    for written in (dump(p.plan(), p.name), dump(piped(shout).plan(), "x")):
        assert [*problems(yaml.safe_load(written), whole, whole)] == []
    data = yaml.safe_load(dump(p.plan(), p.name))
    stage = next(name for name, one in data["stages"].items() if one["part"] == "BM25")
    for change in ({"k": "lots"}, {"k": 0}, {"kk": 3}, {"part": "BM26"}, {"part": 3}, {"inputs": "query"}):
        wrong = {**data, "stages": {**data["stages"], stage: {**data["stages"][stage], **change}}}
        assert [*problems(wrong, whole, whole)], change
    for change in ({"regard": 1}, {"outputs": {"a": 3}}, {"extra": 1}):
        assert [*problems({**data, **change}, whole, whole)], change


def problems(value: Any, given: Any, root: dict[str, Any], path: str = "") -> Iterator[str]:
    """A validator of as much JSON Schema as the schema uses."""
    if given is True or given == {}:
        return
    if "$ref" in given:
        yield from problems(value, root["$defs"][given["$ref"].rpartition("/")[2]], root, path)
        return
    if "anyOf" in given:
        found = [[*problems(value, one, root, path)] for one in given["anyOf"]]
        if all(found):
            yield f"{path}: none of {len(found)} fits: {min(found, key=len)}"
    if "const" in given and given["const"] != value:
        yield f"{path}: {value!r} is not {given['const']!r}"
    if "pattern" in given and isinstance(value, str) and not re.search(given["pattern"], value):
        yield f"{path}: {value!r} has no {given['pattern']!r}"
    if "enum" in given and value not in given["enum"]:
        yield f"{path}: {value!r} is none of {given['enum']}"
    kind = given.get("type")
    if kind and not (isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))):
        yield f"{path}: {value!r} is no {kind}"
        return
    for name, fails in (("minimum", lambda a, b: a < b), ("exclusiveMinimum", lambda a, b: a <= b),
                        ("maximum", lambda a, b: a > b)):
        if name in given and isinstance(value, int | float) and fails(value, given[name]):
            yield f"{path}: {value!r} against {name} {given[name]}"
    if isinstance(value, dict):
        known = given.get("properties", {})
        yield from (f"{path}: {name} is missing" for name in given.get("required", ()) if name not in value)
        for name, item in value.items():
            yield from _property(name, item, known, given, root, path)
    if isinstance(value, list) and "items" in given:
        for i, item in enumerate(value):
            yield from problems(item, given["items"], root, f"{path}[{i}]")


def _property(name: str, item: Any, known: dict[str, Any], given: Any, root: dict[str,
                                                                                  Any], path: str) -> Iterator[str]:
    if name in known:
        yield from problems(item, known[name], root, f"{path}.{name}")
    elif given.get("additionalProperties") is False:
        yield f"{path}: there is no {name}"
    elif isinstance(given.get("additionalProperties"), dict):
        yield from problems(item, given["additionalProperties"], root, f"{path}.{name}")


KINDS: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
                         "object": dict,
                         "array": list}
