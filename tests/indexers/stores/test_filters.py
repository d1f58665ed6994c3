"""Filters against Python's own comparisons: what is true of a passage's field, and what cannot be compared is not."""

from __future__ import annotations

import operator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.indexers.stores.filters import compile_filters, expect_known
from regard.rag.dag.cache import StageCache
from regard.rag.errors import QueryError
from regard.rag.nouns import Query
from regard.rag.parts.identity import same_key

BOUNDS = st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "ab", "3"])
VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3,
                                                                    3) | st.sampled_from(["", "a", "ab",
                                                                                          "3"]) | st.lists(
    st.integers(0, 2) | st.just("a"), max_size=2) | st.just({"a": 1})


@pytest.mark.parametrize("name", ["gt", "gte", "lt", "lte"])
@given(VALUES, BOUNDS)
def test_an_order_holds_where_python_says_so_and_nowhere_else(name: str, value: Any, wanted: Any) -> None:
    compare = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}[name]
    try:
        holds = bool(compare(value, wanted))
    except TypeError:
        holds = False
    assert compile_filters({"field": {name: wanted}})({"field": value}) is holds


@pytest.mark.parametrize(("condition", "value"), [
    ({"gte": 2000}, "2003"), ({"lt": "b"}, 3), ({"contains": "a"}, 3), ({"contains": 3}, "a3"),
    ({"gte": 1, "lt": "9"}, 3),
])
def test_what_cannot_be_compared_does_not_match(condition: Any, value: Any) -> None:
    assert not compile_filters({"field": condition})({"field": value})


@pytest.mark.parametrize("condition", [
    {"in": 5}, {"in": "2000"}, {"in": None}, {"in": {"a": 1}}, {"gt": None}, {"lte": [3]}, {"gte": float("nan")},
    float("nan"), [float("nan")],
    {"eq": float("nan")}, {"lt": {}}, {"gte": b"x"},
])
def test_what_an_operator_cannot_use_is_an_error(condition: Any) -> None:
    with pytest.raises(QueryError, match="filter on 'field' cannot use"):
        compile_filters({"field": condition})


@pytest.mark.parametrize(("condition", "value", "holds"), [
    (["a", "c"], ["a", "b"], True), (["c"], ["a", "b"], False), ({"in": ["b"]}, ["a", "b"], True), ([], ["a"], False),
    (["a"], [], False),
    (["a"], "a", True), ("a", ["a"], False), ({"contains": "a"}, ["a"], True), (("a",), "a", True),
    ({"a"}, ["a"], True),
])
def test_a_list_meets_a_list_where_they_overlap(condition: Any, value: Any, holds: bool) -> None:
    assert compile_filters({"field": condition})({"field": value}) is holds


DAY, NOON = date(2024, 5, 1), datetime(2024, 5, 1, 12)


@pytest.mark.parametrize(("condition", "value", "holds"), [
    (DAY, "2024-05-01", True), (DAY, "2024-05-01T23:00:00", True), (DAY, "2024-05-02", False), (DAY, "May", False),
    (DAY, 20240501, False),
    ({"gte": DAY}, "2024-05-01", True), ({"gt": DAY}, "2024-05-01T23:00", False), ({"lt": DAY}, "2024-04-30", True),
    ({"gt": DAY}, "zzz", False), ({"lt": DAY}, None, False), ({"ne": DAY}, "2024-05-02", True),
    ({"ne": DAY}, "2024-05-01", False),
    ({"gte": NOON}, "2024-05-01", False), ({"gte": NOON}, "2024-05-01 12:00:00", True),
    ({"gte": NOON}, "2024-05-01T14:00:00+02:00", True),
    ({"gt": NOON}, "2024-05-01T13:00:00+02:00", False), ([DAY, date(2020, 1, 1)], "2020-01-01", True),
    ([DAY], "2020-01-01", False),
    ({"gte": "2024-05-01"}, "2024-05-02", True), ([DAY], ["2024-05-01", "x"], True),
    ({"contains": DAY}, ["2024-05-01"], True),
    ({"gte": datetime(2024, 5, 1, 12, tzinfo=UTC)}, "2024-05-01T12:00:00", True),
    ({"lte": DAY}, "2024-05-01", True), ({"lte": DAY}, "x", False),
])
def test_dates_are_compared_with_iso_text(condition: Any, value: Any, holds: bool) -> None:
    assert compile_filters({"field": condition})({"field": value}) is holds


def test_a_date_and_its_text_are_two_keys() -> None:
    values = [DAY, "2024-05-01", datetime(2024, 5, 1),
              {"class": "datetime.date", "value": "datetime.date(2024, 5, 1)"}, [DAY], ["2024-05-01"]]
    assert len({same_key({"when": value}) for value in values}) == len(values)
    cache = StageCache("unused")
    assert len({cache.key("s", [Query("x", filters={"when": value})]) for value in values}) == len(values)


def test_every_field_and_every_operator_must_agree() -> None:
    accept = compile_filters({"year": {"gte": 2000, "lt": 2004}, "kind": ["a", "b"], "lang": "en"})
    assert accept({"year": 2003, "kind": "a", "lang": "en"})
    assert not accept({"year": 2004, "kind": "a", "lang": "en"})
    assert not accept({"year": 2003, "kind": "c", "lang": "en"})
    assert not accept({"year": 2003, "kind": "a"})


def test_unknown_operators_and_fields() -> None:
    for condition in ({"like": "x"}, {}):
        with pytest.raises(QueryError, match="operator"):
            compile_filters({"field": condition})
    with pytest.raises(QueryError,
                       match=r"no passage has a field 'yeer', 'x' \[here\]\n  -> did you mean 'year'\? fields: id, year"):  # noqa: E501
        expect_known({"yeer": 1, "id": "a", "x": 3}, {"year", "id"}, "here")
    expect_known({}, set(), "here")
