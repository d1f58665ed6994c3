"""Which type meets which port, and what a stage may give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol, TypedDict, TypeVar

import pytest
from regard.rag import Answer, Batch, Pipeline, Query, Ranking, Stage
from regard.rag.dag.ports import accepts, meets, signature, type_name
from regard.rag.errors import PipelineError, PortTypeError, QueryError, StageError


class Named(Protocol):
    name: str

    def rename(self, name: str) -> None: ...


class Person:
    name: str = "x"

    def rename(self, name: str) -> None: ...


class Stone:
    name: str


class Row(TypedDict):
    a: int


class Loud(Query): ...


Size = NewType("Size", int)
Some = TypeVar("Some", bound=Query)


@pytest.mark.parametrize(("given", "wanted", "meet"), [
    (Query, Query, True), (Loud, Query, True), (Query, Loud, False), (Query, Any, True), (Any, Query, True),
    (Query, object, True),
    (list[str], list[str], True), (list[str], list[int], False), (list[bool], list[int], True),
    (list[str], Sequence[str], True),
    (list[str], Sequence[int], False), (Sequence[str], list[str], False), (list, list[str], True),
    (list[str], list, True),
    (dict[str, int], Mapping[str, int], True), (dict[str, int], Mapping[str, str], False), (str, Iterable[str], True),
    (tuple[int, int], tuple[int, ...], True), (tuple[int, str], tuple[int, ...], False),
    (tuple[int], tuple[int, int], False),
    (Query, Query | Answer, True), (Query | Answer, Query, False), (Query | Answer, Answer | Ranking | Query, True),
    (Ranking, Query | None, False), (None, Query | None, True), (list[Query], list[Query | Answer], True),
    (Person, Named, True), (Stone, Named, False), (Query, Named, False), (Annotated[Query, "x"], Query, True),
    (Size, int, True),
    (int, Size, True), (Row, Mapping, True), (Row, Row, True), (Loud, Some, True), (Answer, Some, False),
    (Callable[[int], str], Callable, True), (Literal["a"], Query, False),
])
def test_meets(given: Any, wanted: Any, meet: bool) -> None:
    assert meets(given, wanted) is meet


@pytest.mark.parametrize(("wanted", "value", "fits"), [
    (Query, Query("a"), True), (Query, "a", False), (list[str], ["a"], True), (list[str], "a", False),
    (Query | None, None, True),
    (Query | Answer, Answer("a"), True), (Query | Answer, 3, False), (Named, Person(), True), (Named, Stone(), False),
    (Any, 3, True),
    (Row, {"a": 1}, True), (Some, Query("a"), True), (Some, "a", False), (Mapping[str, int], {}, True),
])
def test_accepts(wanted: Any, value: Any, fits: bool) -> None:
    assert accepts(wanted, value) is fits


@pytest.mark.parametrize(("kind", "name"), [
    (Query, "Query"), (list[str], "list[str]"), (Query | None, "Query | None"),
    (dict[str, list[Query]], "dict[str, list[Query]]"),
    (tuple[int, ...], "tuple[int, ...]"), (Any, "Any"),
])
def test_type_names(kind: Any, name: str) -> None:
    assert type_name(kind) == name


class Words(Stage):
    def run(self, queries: Batch[Query]) -> Batch[list[str]]:
        return Batch(query.text.split() for query in queries)


class Joined(Stage):
    def run(self, words: Batch[Sequence[str]]) -> Batch[Query]:
        return Batch(Query(" ".join(reversed(each))) for each in words)


class Numbers(Stage):
    def run(self, numbers: Batch[list[int]]) -> Batch[Query]:
        raise AssertionError


class Either(Stage):
    def run(self, either: Batch[Query | Answer]) -> Batch[Query | Answer]:
        return either


class Rename(Stage):
    def run(self, named: Batch[Named]) -> Batch[Query]:
        return Batch(Query(each.name) for each in named)


def test_generics_unions_and_protocols_are_connected_and_run() -> None:
    p = Pipeline()
    query = p.input(Query)
    p.output(turned=p.add(Either(), p.add(Joined(), p.add(Words(), query))))
    assert p.run("a b c").turned.text == "c b a"
    assert [(edge.source, edge.type) for edge in p.graph().edges][2:3] == [("joined", "Query")]
    named = Pipeline()
    named.output(it=named.add(Rename(), named.input(Person)))
    assert named.run(Person()).it.text == "x"
    lists = Pipeline()
    lists.output(it=lists.add(Joined(), lists.input(list[str])))
    assert [q.text for q in lists.run([["a", "b"], ["c"]]).it] == ["b a", "c"]
    with pytest.raises(QueryError, match=r"takes list\[str\], not str"):
        lists.run("a")


@pytest.mark.parametrize(("stage", "says"), [
    (Numbers(), r"Batch\[list\[str\]\], port 'numbers' of stage 'numbers' \(Numbers\) takes Batch\[list\[int\]\]"),
    (Either(), r"takes Batch\[Query \| Answer\]"), (Rename(), r"takes Batch\[Named\]"),
])
def test_ports_that_do_not_meet_are_typed_errors(stage: Any, says: str) -> None:
    p = Pipeline()
    with pytest.raises(PortTypeError, match=says):
        p.add(stage, p.add(Words(), p.input(Query)))


def test_annotations_that_name_nothing_and_stages_without_ports() -> None:
    class Lost(Stage):
        def run(self,
                queries: Batch[Nowhere]) -> Batch[Query]:  # type: ignore[name-defined]  # noqa: F821 - that is the point
            raise AssertionError

    class Source(Stage):
        def run(self) -> Batch[Query]:
            raise AssertionError

    with pytest.raises(PipelineError, match="Nowhere"):
        signature(Lost)
    with pytest.raises(PipelineError, match="takes no batch"):
        signature(Source)


@pytest.mark.parametrize("position", [0, 2])
def test_a_stage_that_gives_another_type_than_it_says_is_named(position: int) -> None:
    class Text(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Query]:
            return Batch(query.text if i == position else query for i, query in enumerate(queries))

    p = Pipeline()
    p.output(words=p.add(Words(), p.add(Text(), p.input(Query))))
    with pytest.raises(StageError,
                       match=rf"gave str for query {position + 1} of 3, and its port says Batch\[Query\] \[stage 'text'\]"):  # noqa: E501
        p.run(["a", "b", "c"])
