"""Filters against Python's own comparisons: what is true of a passage's field, and what cannot be compared is not."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.indexers.filters import compile_filters, expect_known
from regard.rag.errors import QueryError

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "ab", "3"]) | st.lists(
    st.integers(0, 2) | st.just("a"), max_size=2) | st.just({"a": 1})


@pytest.mark.parametrize("name", ["gt", "gte", "lt", "lte"])
@given(VALUES, VALUES)
def test_an_order_holds_where_python_says_so_and_nowhere_else(name: str, value: Any, wanted: Any) -> None:
    compare = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}[name]
    try:
        holds = bool(compare(value, wanted))
    except TypeError:
        holds = False
    assert compile_filters({"field": {name: wanted}})({"field": value}) is holds


@pytest.mark.parametrize(("condition", "value"), [
    ({"gte": 2000}, "2003"), ({"lt": "b"}, 3), ({"contains": "a"}, 3), ({"contains": 3}, "a3"), ({"gt": None}, 3), ({"lte": [3]}, 3),
    ({"gte": 1, "lt": "9"}, 3),
])
def test_what_cannot_be_compared_does_not_match(condition: Any, value: Any) -> None:
    assert not compile_filters({"field": condition})({"field": value})


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
    with pytest.raises(QueryError, match=r"no passage has a field 'yeer', 'x' \[here\]\n  -> did you mean 'year'\? fields: id, year"):
        expect_known({"yeer": 1, "id": "a", "x": 3}, {"year", "id"}, "here")
    expect_known({}, set(), "here")
