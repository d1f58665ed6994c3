"""Metadata filters: ``{"year": {"gte": 2020}, "source": ["a", "b"], "lang": "en"}``; every field must agree."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from ..rag.errors import QueryError

Accept = Callable[[Mapping[str, Any]], bool]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
    "in": lambda value, wanted: value in wanted, "contains": lambda value, wanted: wanted in value,
}


def compile_filters(filters: Mapping[str, Any]) -> Accept:
    """A predicate over a passage's fields (its metadata, and ``id``, ``document_id``, ``title``).

    A plain value must be equal, a list must hold the value, a mapping gives operators: eq, ne, gt, gte, lt, lte, in, contains.
    A passage without the field, or with a value that cannot be compared, is left out. Raises ``QueryError`` for an unknown operator.
    """
    tests = [(field, *_condition(field, condition)) for field, condition in filters.items()]

    def accept(fields: Mapping[str, Any]) -> bool:
        return all(field in fields and _holds(fields[field], names, wanted) for field, names, wanted in tests)

    return accept


def expect_known(filters: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise ``QueryError`` for a filter on a field that no passage has, naming those that there are."""
    fields = sorted(known)
    unknown = [field for field in filters if field not in fields]
    if unknown:
        near = get_close_matches(str(unknown[0]), fields, n=1)
        raise QueryError(f"no passage has a field {', '.join(map(repr, unknown))}", where=where,
                         hint=(f"did you mean {near[0]!r}? " if near else "") + f"fields: {', '.join(fields)}")


def _condition(field: str, condition: Any) -> tuple[list[str], list[Any]]:
    if isinstance(condition, Mapping):
        unknown = [name for name in condition if name not in _OPERATORS]
        if unknown or not condition:
            raise QueryError(f"the filter on {field!r} has no operator {', '.join(map(repr, unknown)) or 'at all'}",
                             where=f"filter {field!r}", hint=f"operators: {', '.join(_OPERATORS)}")
        return list(condition), list(condition.values())
    if isinstance(condition, list | tuple | set | frozenset):
        return ["in"], [list(condition)]
    return ["eq"], [condition]


def _holds(value: Any, names: list[str], wanted: list[Any]) -> bool:
    try:
        return all(_OPERATORS[name](value, other) for name, other in zip(names, wanted, strict=True))
    except TypeError:  # 3 < "a": not comparable, so not a match
        return False
