"""Queries in JSON lines, and BEIR folders (Thakur et al. 2021, arXiv:2104.08663)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EmptyQueryError, EvaluationError, QueryError
from ..files import local_path, numbered_lines
from ..nouns import Query
from .runs import Qrels
from .trec import read_qrels

_RESERVED = {"id", "_id", "qid", "text", "metadata", "filters"}


@dataclass(frozen=True, slots=True)
class BeirFolder:
    """A BEIR collection: where its corpus is, and its queries that have judgments in ``split``."""

    corpus: Path
    queries: list[Query]
    qrels: Qrels
    split: str


def read_beir(folder: str | Path, split: str = "test") -> BeirFolder:
    """Read ``queries.jsonl`` and ``qrels/<split>.tsv`` (each may be gzipped); the corpus is named, not read.

    ``queries`` holds those with judgments, in the file's order. Raises ``EvaluationError`` when a part is missing.
    """
    root = local_path(folder, "BEIR folder")
    qrels = read_qrels(_part(root, f"qrels/{split}.tsv"))
    queries = [query for query in read_queries(_part(root, "queries.jsonl")) if query.id in qrels]
    return BeirFolder(_part(root, "corpus.jsonl"), queries, qrels, split)


def _part(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    present = ", ".join(sorted(p.name for p in (root / "qrels").glob("*"))) if name.startswith("qrels/") else ""
    raise EvaluationError(f"the BEIR folder has no {name}", where=str(root),
                          hint=f"splits present: {present}" if present
                          else "it needs corpus.jsonl, queries.jsonl, qrels/test.tsv")


def read_queries(path: str | Path) -> list[Query]:
    """Queries from JSON lines: ``_id`` (or ``id``, ``qid``) and ``text``; ``metadata`` (answers, say) and ``filters``
    if present.

    Other scalar fields join the metadata. Raises ``QueryError`` with file and line for a line that is no such object or
    an id that comes twice, ``EmptyQueryError`` for a query without text.
    """
    queries: dict[str, Query] = {}
    for number, line in numbered_lines(local_path(path, "queries"), QueryError, "the queries", "check the path"):
        place = f"{path}:{number}"
        query = _query(line, place)
        if query.id in queries:
            raise QueryError(f"two queries have the id {query.id!r}", where=place)
        queries[query.id] = query
    return list(queries.values())


def _query(line: bytes, place: str) -> Query:
    try:
        record = json.loads(line.decode("utf-8-sig"))  # a file put together of several has several marks
    except (ValueError, RecursionError) as error:
        raise QueryError(f"the line is not JSON: {error}", where=place) from None
    if not isinstance(record, dict):
        raise QueryError("the line is not a JSON object", where=place, hint='{"_id": "1", "text": "..."}')
    name = next((record[key] for key in ("_id", "id", "qid") if record.get(key) not in (None, "")), None)
    text = record.get("text")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise QueryError("the query has no id", where=place, hint='{"_id": "1", "text": "..."}')
    if not isinstance(text, str) or not text.strip():
        raise EmptyQueryError(f"query {name!r} has no text", where=place)
    return Query(text, str(name), filters=_mapping(record, "filters", place), metadata=_metadata(record, place))


def _metadata(record: dict[str, Any], place: str) -> dict[str, Any]:
    scalars = {key: value for key, value in record.items() if key not in _RESERVED
               and isinstance(value, str | int | float | bool)}
    return {**scalars, **_mapping(record, "metadata", place)}


def _mapping(record: dict[str, Any], key: str, place: str) -> dict[str, Any]:
    value = record.get(key)
    if value is not None and not isinstance(value, dict):
        raise QueryError(f"the field {key!r} is not an object", where=place)
    return dict(value or {})
