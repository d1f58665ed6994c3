"""Which jobs on an index have begun and not ended, so that a search over half a corpus can say so.

``unfinished.json`` beside the index is written before a job's first change and goes with its success. A job whose
process was killed, or that broke off, leaves it; the next successful job over the same sources removes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ...rag.errors import IndexNotFound, RegardError
from ...rag.files import replace_text
from .locks import is_locked, storage_errors

FILE = "unfinished.json"
RERUN = "rerun the job, it goes on where it stopped"


@dataclass(frozen=True, slots=True)
class UnfinishedJob:
    """``command``: how to run it again. ``sources``: the names of what it reads; none for a job that only adds views or
    encoders. ``views``: the folder names of those that it builds."""

    command: str
    sources: list[str]
    views: list[str]


@contextmanager
def unfinished(path: Path, job: UnfinishedJob, version: Callable[[Path], int | None]) -> Iterator[None]:
    """Note ``job`` on the index at ``path`` while the block runs, and for as long as it has not succeeded.

    ``version`` gives the index's newest version (``StoreKind.version``). A job that breaks off before it has changed
    anything leaves the note as it was.
    """
    before = jobs(path)
    rest = [other for other in before if not set(other.sources) <= set(job.sources)]
    begun_from = version(path)
    _write(path, [*rest, job])
    try:
        yield
    except BaseException:
        if version(path) == begun_from:
            _write(path, before)
        raise
    _write(path, rest)


def jobs(path: Path) -> list[UnfinishedJob]:
    """The jobs that have not ended, oldest first; one may be running."""
    try:
        return [UnfinishedJob(**job) for job in json.loads((path / FILE).read_bytes())["jobs"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return [UnfinishedJob(f"regard index SOURCE --index {path}", [], [])]  # a note that cannot be read is still one


def forget(path: Path, sources: Collection[str]) -> None:
    """Drop the notes on jobs that read one of ``sources``."""
    before = jobs(path)
    left = [job for job in before if not set(job.sources) & set(sources)]
    if len(left) < len(before):
        _write(path, left)


def incomplete(path: Path) -> RegardError | None:
    """What to say of an index whose last job has not ended, and is not running; None when all is well."""
    left = jobs(path)
    if not left or is_locked(path):
        return None
    return IndexNotFound("the last indexing job on this index was interrupted: what it had not committed is not found",
                         where=str(path),
                         hint=f"{RERUN}: {left[-1].command}")


def _write(path: Path, left: Collection[UnfinishedJob]) -> None:
    with storage_errors(path, "the job's beginning cannot be noted"):
        if not left:
            (path / FILE).unlink(missing_ok=True)
            return
        replace_text(path / FILE, json.dumps({"jobs": [asdict(job) for job in left]}, indent=1))
