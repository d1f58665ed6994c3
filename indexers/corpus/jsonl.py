"""JSON lines, plain or gzipped: one file, a folder of shards, or a BEIR folder's corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ...rag.documents import Document
from ...rag.errors import CorpusError
from . import records
from .lines import count, lines, members
from .skips import OnSkip, Skip

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


def read(path: Path, source: str, on_skip: OnSkip) -> Iterator[Document]:
    """Documents line by line; a line that is no document is a skip at ``file:line``."""
    for file in members(path, SUFFIXES):
        for number, line in lines(file):
            if not line.strip():
                continue
            try:
                yield records.document(json.loads(line.decode()))
            except records.BadRecord as error:
                on_skip(Skip(source, f"{file}:{number}", str(error)))
            except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number too long, nesting too deep
                on_skip(Skip(source, f"{file}:{number}", f"not JSON: {error}"))


def estimate(path: Path) -> int | None:
    counts = [count(file, b"\n") for file in members(path, SUFFIXES)]
    return None if None in counts else sum(filter(None, counts))


def find_beir_corpus(folder: Path) -> Path | None:
    return next((path for path in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if path.is_file()), None)


def beir_corpus(folder: Path) -> Path:
    """The corpus file of a BEIR folder (or that file itself). Raises ``CorpusError`` when there is none."""
    found = folder if folder.is_file() else find_beir_corpus(folder)
    if found is None:
        raise CorpusError("the BEIR folder has no corpus.jsonl or corpus.jsonl.gz", where=str(folder))
    return found
