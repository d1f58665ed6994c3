"""What a JSON object or a table row says about a document: one set of field names for every format."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

from ...rag.documents import Document

IDS = ("id", "_id", "docid")
TEXTS = ("text", "contents", "body")
_RESERVED = frozenset({*IDS, *TEXTS, "title", "metadata"})


class BadRecord(ValueError):
    """A record is not a document; the message says why."""


def document(record: Any) -> Document:
    """The document that ``record`` describes.

    The id is a string or a whole number under one of ``IDS``, the text a string under one of ``TEXTS``, ``title`` is optional.
    ``metadata`` is the object of that name plus every other field that holds one plain value. A title without text (BEIR's
    TREC-COVID has many) becomes the text. Raises ``BadRecord``.
    """
    if not isinstance(record, Mapping):
        raise BadRecord(f"a JSON object was expected, not {type(record).__name__}")
    name = next((record[key] for key in IDS if record.get(key) not in (None, "")), None)
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise BadRecord(f"no id (a string or a whole number under one of {', '.join(IDS)})")
    text = next((record[key] for key in TEXTS if record.get(key) is not None), None)
    title = record.get("title")
    title = title.strip() if isinstance(title, str) else ""
    if isinstance(text, str) and not text.strip() and title:
        text, title = title, ""
    if not isinstance(text, str) or not text.strip():
        raise BadRecord(f"no text (a string under one of {', '.join(TEXTS)})")
    return Document(str(name), text, title, _metadata(record))


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    own = record.get("metadata")
    fields = {**{key: value for key, value in record.items() if key not in _RESERVED}, **(own if isinstance(own, Mapping) else {})}
    plain = {key: _plain(value) for key, value in fields.items() if key in (own or ()) or not isinstance(value, list | dict)}
    return {key: value for key, value in plain.items() if value is not None}


def _plain(value: Any) -> Any:
    """A JSON value; dates become ISO 8601, what JSON cannot say becomes None."""
    if isinstance(value, datetime.date | datetime.datetime | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool) else None
