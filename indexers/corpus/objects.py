"""Corpora that are Python objects: lists and generators of records, data frames, Hugging Face and ir_datasets'
datasets.

A record is a ``Document``, a mapping, a named tuple, a LangChain document, or any object with an id and a text
(``records.IDS``, ``records.TEXTS``). The libraries are known by what their objects can do, and none is imported.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from ...rag.errors import CorpusError
from ...rag.nouns import Document
from . import records
from .langchain import one_from_langchain
from .limits import Limits
from .skips import OnSkip, Skip, Unreadable

_KINDS = ("a Document, a mapping, a named tuple, a LangChain document or an object with an id and a text "
          f"(under one of {', '.join(records.IDS)}; {', '.join(records.TEXTS)})")


def read(corpus: Any, limits: Limits, on_skip: OnSkip) -> Iterator[Document]:
    """The documents of ``corpus`` in its order.

    A record without id or text (None, NaN), or over one of ``limits``, is a skip at its position, counted from 0.
    Raises ``CorpusError`` for what is no record: at once where that can be seen beforehand (the items of a list, the
    columns of a table), else when its position is reached.
    """
    items = _items(corpus)
    if isinstance(items, Sequence):
        for position, item in enumerate(items):
            _require_record(item, position)
    return _documents(items, type(corpus).__name__, limits, on_skip)


def estimate(corpus: Any) -> int | None:
    """How many records ``corpus`` says it has."""
    if callable(getattr(corpus, "docs_count", None)):
        size = corpus.docs_count()
        return size if isinstance(size, int) else None
    return len(corpus) if isinstance(corpus, Sized) else None


def _items(corpus: Any) -> Iterable[Any]:
    """The records of ``corpus``, not yet looked at."""
    if callable(getattr(corpus, "docs_iter", None)):  # ir_datasets
        return corpus.docs_iter()  # type: ignore[no-any-return]  # documents, by its protocol
    if callable(getattr(corpus, "itertuples", None)) and hasattr(corpus, "columns"):  # pandas
        return _rows(corpus)
    if isinstance(corpus, Mapping):
        raise CorpusError(f"sources is of type {type(corpus).__name__}, which is no corpus", where="sources",
                          hint="pass a list of records; of a dictionary of splits, pass one split")
    names = getattr(corpus, "column_names", None)  # Hugging Face datasets; a streamed one may not know them
    if isinstance(names, list):
        _require_columns(names, "rename_column(...) gives a column the name")
        return corpus.with_format(None)  # type: ignore[no-any-return]  # rows as dictionaries
    if not isinstance(corpus, Iterable) or isinstance(corpus, bytes):
        raise CorpusError(f"sources is of type {type(corpus).__name__}, which is no corpus", where="sources",
                          hint="pass files, folders, or an iterable whose items are each " + _KINDS)
    return corpus


def _rows(frame: Any) -> Iterator[dict[Any, Any]]:
    """A pandas DataFrame row by row; an index that is named as an id is a column too."""
    if frame.index.name in records.IDS:
        frame = frame.reset_index()
    columns = list(frame.columns)
    _require_columns(columns,
                     "rename(columns={...}) gives a column the name, reset_index(names='id') makes one of the index")
    return (dict(zip(columns, row, strict=True)) for row in frame.itertuples(index=False, name=None))


def _require_columns(columns: list[Any], advice: str) -> None:
    for what, names in (("id", records.IDS), ("text", records.TEXTS)):
        if not set(names) & set(columns):
            raise CorpusError(f"the table has no {what} column; its columns are {', '.join(map(str, columns))}",
                              where="sources",
                              hint=f"name one of {', '.join(names)}: {advice}")


def _documents(items: Iterable[Any], kind: str, limits: Limits, on_skip: OnSkip) -> Iterator[Document]:
    sources: Counter[str] = Counter()  # of LangChain documents
    for position, item in enumerate(items):
        _require_record(item, position)
        try:
            document = limits.checked(_document(item, sources))
        except Unreadable as error:
            on_skip(Skip(kind, f"position {position}", str(error)))
        except RecursionError:
            on_skip(Skip(kind, f"position {position}", "its fields are nested without end, or far too deep"))
        else:
            yield document


def _document(item: Any, sources: Counter[str]) -> Document:
    if isinstance(item, Document) and all(isinstance(part, str) for part in (item.id, item.text, item.title)):
        return item
    if _is_langchain(item):
        return one_from_langchain(item, sources)
    return records.document(_fields(item))


def _require_record(item: Any, position: int) -> None:
    if isinstance(item, Document | Mapping) or _is_named_tuple(item) or _is_langchain(item):
        return
    if any(hasattr(item, name) for name in records.IDS) and any(hasattr(item, name) for name in records.TEXTS):
        return
    hint = f"each item is {_KINDS}"
    if isinstance(item, str | Path):
        hint = ("file names cannot be mixed with documents, nor come from a generator: pass a list of them; a text "
                "needs an id beside it")
    raise CorpusError(f"the item at position {position} is no document: {type(item).__name__} {item!r:.60}",
                      where="sources", hint=hint)


def _is_named_tuple(item: Any) -> bool:
    return isinstance(item, tuple) and hasattr(item, "_asdict")


def _is_langchain(item: Any) -> bool:
    return hasattr(item, "page_content") and hasattr(item, "metadata")


def _fields(item: Any) -> Mapping[str, Any]:
    """The item's fields by name."""
    if isinstance(item, Mapping):
        return item
    if _is_named_tuple(item):
        return _with_default_text(item)
    if dataclasses.is_dataclass(item):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if hasattr(type(item), "model_fields"):  # pydantic
        return {name: getattr(item, name) for name in type(item).model_fields}
    names = (*records.IDS, *records.TEXTS, "title", "metadata")
    return {**getattr(item, "__dict__", {}), **{name: getattr(item, name) for name in names if hasattr(item, name)}}


def _with_default_text(item: Any) -> dict[str, Any]:
    """A named tuple's fields; where none is a text, what ir_datasets calls the document's default text, without its
    title."""
    fields: dict[str, Any] = item._asdict()
    if not fields.keys() & set(records.TEXTS) and callable(getattr(item, "default_text", None)):
        text = item.default_text()
        fields["text"] = text.removeprefix(fields.get("title") or "").strip() or text
    return fields
