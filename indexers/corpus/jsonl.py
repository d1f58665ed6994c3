"""JSON lines, plain or gzipped: one file, a folder of shards, or a BEIR folder's corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ...rag.errors import CorpusError
from ...rag.nouns import Document
from . import records
from .limits import Limits
from .lines import count, lines, members
from .opening import require_inside
from .skips import OnSkip, Skip, Unreadable

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


def read(path: Path, source: str, limits: Limits, on_skip: OnSkip) -> Iterator[Document]:
    """Documents line by line; a line that is no document is a skip at ``file:line``."""
    def refuse(location: str, reason: str) -> None:
        on_skip(Skip(source, location, reason))

    for file in members(path, SUFFIXES, limits, refuse):
        for number, line in lines(file, limits, refuse):
            if not line.strip():
                continue
            try:
                yield limits.checked(records.document(json.loads(line.decode())))
            except Unreadable as error:
                refuse(f"{file}:{number}", str(error))
            except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number too long, nesting too deep
                refuse(f"{file}:{number}", f"not JSON: {error}")


def estimate(path: Path) -> int | None:
    counts = [count(file, b"\n") for file in members(path, SUFFIXES, Limits(), lambda *_: None)]
    return None if None in counts else sum(filter(None, counts))


def find_beir_corpus(folder: Path) -> Path | None:
    return next((path for path in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if path.is_file()), None)


def beir_corpus(folder: Path, limits: Limits) -> Path:
    """The corpus file of a BEIR folder (or that file itself). Raises ``CorpusError`` when there is none, or it is a
    link that leads out."""
    found = folder if folder.is_file() else find_beir_corpus(folder)
    if found is None:
        raise CorpusError("the BEIR folder has no corpus.jsonl or corpus.jsonl.gz", where=str(folder))
    if found != folder:
        try:
            require_inside(found, folder, limits)
        except Unreadable as error:
            raise CorpusError(f"the corpus file is {error}", where=str(found)) from None
    return found
