"""TREC runs and qrels (and BEIR's qrels) on disk, plain or gzipped.

A run's line is ``query Q0 document rank score tag``, a qrels line ``query 0 document grade``; columns are separated by
white space. BEIR's qrels are a header line and then ``query<TAB>document<TAB>grade``.

An id with white space or control characters in it, or an empty one, is written percent-encoded after ``percent:``
(``percent:two%20words``), so that every run can be written and every tool counts its columns right; reading undoes it.
All other ids are written as they are, also those with a ``%`` (URLs have it). In files of others a tab may separate
columns, and a space be part of an id.
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast
from urllib.parse import unquote

import numpy as np

from ..errors import EvaluationError, StorageError
from ..files import expect_writable, local_path, numbered_lines, replacing
from .runs import Qrels, Run, expect_judged, untied

_ESCAPED = "percent:"
_UNWRITABLE = re.compile("[\\s\x00-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")


def read_run(path: str | Path) -> Run:
    """Read a run. Documents are listed best first, equal scores by document id descending as trec_eval ranks them.

    The rank column and the order of the lines are ignored, as trec_eval ignores them.
    Raises ``EvaluationError`` with file and line for a malformed line, a score that is no number, or a document ranked
    twice.
    """
    run: Run = {}
    for place, line in _lines(path):
        fields = _fields(line, (6,))
        if fields is None:
            raise EvaluationError("a run's line has six columns", where=place, hint="query Q0 document rank score tag")
        query, document, score_text = _read(fields[0]), _read(fields[2]), fields[4]
        documents = run.setdefault(query, {})
        if document in documents:
            raise EvaluationError(f"document {document!r} is ranked twice for query {query!r}", where=place)
        documents[document] = _score(score_text, place)
    return {query: _trec_order(documents) for query, documents in run.items()}


def write_run(run: Run, path: str | Path, tag: str = "regard") -> None:
    """Write a run, best document first, atomically (a temporary file, then a rename); ``.gz`` is compressed.

    Scores are made strictly decreasing in float32 (see :func:`.runs.untied`), because trec_eval breaks ties by document
    id: reading the file back, here or in any tool, gives our order. Ids are escaped as the module says.
    Raises ``EvaluationError`` for a score that is not finite in float32, ``StorageError`` when the disk refuses.
    """
    label = _written(tag)
    _write(path, (
        " ".join((_written(query), "Q0", _written(document), str(rank), repr(score), label))
        for query, documents in untied(run).items()
        for rank, (document, score) in enumerate(documents.items(), 1)
    ))


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments in TREC's four columns or BEIR's three (with or without its header line).

    Raises ``EvaluationError`` with file and line for a malformed line, a grade that is no whole number, or two grades
    for one pair.
    """
    qrels: Qrels = {}
    for number, (place, line) in enumerate(_lines(path)):
        fields = _fields(line, (4, 3))
        if fields is None:
            raise EvaluationError("a qrels line has four columns (TREC) or three (BEIR)", where=place,
                                  hint="query 0 document grade, or query<TAB>document<TAB>grade")
        query, document, grade_text = _read(fields[0]), _read(fields[-2]), fields[-1]
        if number == 0 and len(fields) == 3 and _grade(grade_text) is None:
            continue  # BEIR's header
        grade = _grade(grade_text)
        if grade is None:
            raise EvaluationError(f"the grade {grade_text!r} is not a whole number", where=place)
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise EvaluationError(f"document {document!r} has two grades for query {query!r}", where=place)
    return qrels


def write_qrels(qrels: Qrels, path: str | Path, layout: Literal["trec", "beir"] | None = None) -> None:
    """Write judgments atomically. ``layout`` None means BEIR's for ``.tsv`` and ``.tsv.gz``, else TREC's."""
    expect_judged(qrels, "the judgments", (int, np.integer))
    if layout not in (None, "trec", "beir"):
        raise EvaluationError(f"there is no layout {layout!r}", hint="trec or beir")
    target = local_path(path, "file to write")
    name = target.name.removesuffix(".gz")
    beir = layout == "beir" or (layout is None and name.endswith(".tsv"))
    rows = ((_written(query), _written(document), str(grade))
            for query, documents in qrels.items() for document, grade in documents.items())
    if beir:
        _write(path, ("\t".join(row) for row in [("query-id", "corpus-id", "score"), *rows]))
    else:
        _write(path, (" ".join((query, "0", document, grade)) for query, document, grade in rows))


def _trec_order(documents: dict[str, float]) -> dict[str, float]:
    by_name = sorted(documents.items(), key=lambda item: item[0], reverse=True)
    return dict(sorted(by_name, key=lambda item: -item[1]))


def _fields(line: str, widths: tuple[int, ...]) -> list[str] | None:
    """Columns of a line: tabs when they give a width that is allowed, else any white space."""
    for fields in (line.split("\t"), line.split()):
        if len(fields) in widths and all(fields):
            return fields
    return None


def _score(text: str, place: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise EvaluationError(f"the score {text!r} is not a finite number", where=place)
    return score


def _grade(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _written(name: str) -> str:
    """An id as it stands in a file; other ids never look the same."""
    if name and not name.startswith(_ESCAPED) and not _UNWRITABLE.search(name):
        return name
    return _ESCAPED + re.sub(f"%|{_UNWRITABLE.pattern}", _percent, name)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in found[0].encode("utf-8", "surrogatepass"))


def _read(name: str) -> str:
    """The id that :func:`_written` wrote; what it would not have written is an id as it stands."""
    if not name.startswith(_ESCAPED):
        return name
    try:
        found = unquote(name.removeprefix(_ESCAPED), errors="surrogatepass")
    except UnicodeDecodeError:
        return name
    return found if _written(found) == name else name


def _lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """``("file:line", text)`` for each line that is not blank; only ``\\n`` ends a line."""
    for number, line in numbered_lines(local_path(path, "file to read"), EvaluationError):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise EvaluationError(f"the file is not UTF-8 text: {error.reason}",
                                  where=f"{path}, after line {number - 1}") from None
        if text.strip():
            yield f"{path}:{number}", text


def _write(path: str | Path, lines: Iterable[str]) -> None:
    expect_writable(path)
    target = Path(path)
    try:
        with _packed(target) as file:
            for line in lines:
                file.write(f"{line}\n".encode())
    except OSError as error:
        raise StorageError(f"the file cannot be written: {error.strerror or error}", where=str(target),
                           hint="check free space and the permissions of the folder") from error


@contextmanager
def _packed(target: Path) -> Iterator[BinaryIO]:
    """A file that takes ``target``'s place only when all was written. The gzip header carries no time: same run, same
    bytes."""
    with replacing(target) as raw:
        if target.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield raw
