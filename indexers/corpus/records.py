"""What a JSON object, a table row or a Python object's fields say about a document: one set of field names for every
corpus."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from ...rag.nouns import Document
from .skips import Unreadable

IDS = ("id", "_id", "docid", "doc_id", "docno")
TEXTS = ("text", "contents", "body")
_RESERVED = frozenset({"id", "_id", "docid", *TEXTS, "title", "metadata"})
_EXACT = 2 ** 53  # floats up to here hold every whole number


class BadRecord(Unreadable):
    """A record is not a document; the message says why."""


def document(record: Any) -> Document:
    """The document that ``record`` describes.

    The id is a string or a whole number under one of ``IDS``, the text a string under one of ``TEXTS``, ``title`` is
    optional. ``metadata`` is the object of that name plus every other field that holds one plain value (see
    :func:`plain`). A title without text (BEIR's TREC-COVID has many) becomes the text. Raises ``BadRecord``.
    """
    if not isinstance(record, Mapping):
        raise BadRecord(f"a JSON object was expected, not {type(record).__name__}")
    id_field = next((key for key in IDS if plain(record.get(key)) not in (None, "")), "")
    name = _identity(plain(record.get(id_field)))
    text = next((value for key in TEXTS if (value := plain(record.get(key))) is not None), None)
    title = plain(record.get("title"))
    title = title.strip() if isinstance(title, str) else ""
    if isinstance(text, str) and not text.strip() and title:
        text, title = title, ""
    if not isinstance(text, str) or not text.strip():
        raise BadRecord(f"no text (a string under one of {', '.join(TEXTS)})")
    return Document(name, text, title, _metadata(record, id_field))


def plain(value: Any) -> Any:
    """A JSON value. What stands for "nothing here" (NaN, ``pandas.NA``, ``NaT``) and what JSON cannot say (bytes, say)
    is None.

    Dates and times become ISO 8601, durations seconds, decimals floats, UUIDs and paths strings, members of an
    enumeration their value, numpy scalars and arrays numbers, strings and lists.
    """
    if isinstance(value, np.ndarray | np.generic):
        return _from_numpy(value)
    if value is None or _is_missing_time(value):
        return None
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, str | int):  # and so bool
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, uuid.UUID | PurePath) else None


def _from_numpy(value: Any) -> Any:
    if value.dtype.kind in "mM":  # .item() of nanoseconds is a bare number
        value = value.astype(f"{value.dtype.kind}8[us]")
    return plain(value.tolist() if isinstance(value, np.ndarray) else value.item())


def _is_missing_time(value: Any) -> bool:
    """Whether it is pandas' NaT, which counts as a datetime and differs from itself."""
    return isinstance(value, datetime.date | datetime.timedelta) and bool(value != value)


def _identity(name: Any) -> str:
    if isinstance(name, float) and name.is_integer() and abs(name) < _EXACT:
        name = int(name)  # a column of whole numbers in which one is missing holds floats
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise BadRecord(f"no id (a string or a whole number under one of {', '.join(IDS)})")
    return str(name)


def _metadata(record: Mapping[str, Any], id_field: str) -> dict[str, Any]:
    own = record.get("metadata")
    own = own if isinstance(own, Mapping) else {}
    rest = {str(key): value for key, value in record.items() if key not in _RESERVED and key != id_field}
    fields = {key: plain(value) for key, value in rest.items()
              if not isinstance(value, Mapping | list | tuple | np.ndarray)}
    fields |= {str(key): plain(value) for key, value in own.items()}
    return {key: value for key, value in fields.items() if value is not None}
