"""Metadata filters: ``{"year": {"gte": 2020}, "source": ["a", "b"], "lang": "en"}``; every field must agree."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Any

from ...rag.errors import QueryError

Accept = Callable[[Mapping[str, Any]], bool]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
    "in": lambda value, wanted: any(item in wanted for item in value) if isinstance(value, list) else value in wanted,
    "contains": lambda value, wanted: wanted in value,
}
_ORDERS = ("gt", "gte", "lt", "lte")


def compile_filters(filters: Mapping[str, Any]) -> Accept:
    """A predicate over a passage's fields (its metadata, and ``id``, ``document_id``, ``title``).

    A plain value must be equal, a list must hold the value, a mapping gives operators: eq, ne, gt, gte, lt, lte, in,
    contains. Of a field that is a list, a list must hold one value at least (any overlap); ``contains`` asks for one
    value in a list, or a part of a text. A passage without the field, or with a value that cannot be compared, is left
    out.

    Dates lie in metadata as ISO 8601 text. A ``date`` is compared with the day of such a text, a ``datetime`` with its
    moment (midnight where it has no time, UTC where it has no zone); text that is no date is left out.

    Raises ``QueryError`` for an unknown operator, and for a value that an operator cannot use (``{"in": 5}``, ``{"gte":
    nan}``).
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
        return list(condition), [_operand(field, name, wanted) for name, wanted in condition.items()]
    if isinstance(condition, list | tuple | set | frozenset):
        return ["in"], [_operand(field, "in", condition)]
    return ["eq"], [_operand(field, "eq", condition)]


def _operand(field: str, name: str, wanted: Any) -> Any:
    """``wanted`` as its operator takes it."""
    if name == "in":
        if not isinstance(wanted, list | tuple | set | frozenset):
            raise _unusable(field, name, wanted, "in takes a list of values")
        return [_operand(field, "eq", item) for item in wanted]
    if isinstance(wanted, float) and math.isnan(wanted):
        raise _unusable(field, name, wanted, "nothing is equal to NaN, above it or below it")
    if name in _ORDERS and not isinstance(wanted, int | float | str | date):
        raise _unusable(field, name, wanted, "bounds are numbers, texts or dates")
    return _Day(wanted) if isinstance(wanted, date) else wanted


def _unusable(field: str, name: str, wanted: Any, hint: str) -> QueryError:
    return QueryError(f"the filter on {field!r} cannot use {name} with {wanted!r:.80}", where=f"filter {field!r}",
                      hint=hint)


@functools.total_ordering
class _Day:
    """A date, or a moment, that is compared with ISO 8601 text."""

    __hash__ = None  # type: ignore[assignment]  # it is equal to texts of several spellings

    def __init__(self, wanted: date) -> None:
        self.wanted = _utc(wanted) if isinstance(wanted, datetime) else wanted

    def __eq__(self, text: object) -> bool:
        found = self._like(text)
        return found is not None and found == self.wanted

    def __ne__(self, text: object) -> bool:
        found = self._like(text)
        return found is not None and found != self.wanted

    def __lt__(self, text: object) -> bool:
        found = self._like(text)
        if found is None:
            return NotImplemented
        return bool(self.wanted < found)

    def _like(self, text: object) -> Any:
        """What ``text`` says, as a date or a moment as ``wanted`` is; None where it is no date."""
        try:
            found = datetime.fromisoformat(text) if isinstance(text, str) else None
        except ValueError:
            return None
        if found is None or isinstance(self.wanted, datetime):
            return found and _utc(found)
        return found.date()


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _holds(value: Any, names: list[str], wanted: list[Any]) -> bool:
    try:
        return all(_OPERATORS[name](value, other) for name, other in zip(names, wanted, strict=True))
    except TypeError:  # 3 < "a": not comparable, so not a match
        return False
