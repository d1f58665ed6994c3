"""What to say of a view that is not there."""

from __future__ import annotations

from pathlib import Path

from ...rag.errors import IndexNotFound
from ..stores.unfinished import RERUN, is_locked, jobs
from .kind import ViewKind
from .versions import view_kinds


def missing_view(path: Path, kind: ViewKind) -> IndexNotFound:
    """The error for a view that was never built: its job did not get there, or nobody asked for it."""
    of_this_kind = kind.folders()[0]
    job = next((job for job in jobs(path) if any(name.partition("@")[0] == of_this_kind for name in job.views)), None)
    if job is None:
        built = ", ".join(map(str, view_kinds(path))) or "none"
        return IndexNotFound(f"the index has no view {kind}", where=str(path),
                             hint=f"add it: regard index --index {path} --view {kind}; it has: {built}")
    if is_locked(path):
        return IndexNotFound(f"the view {kind} is not built yet: a job is working on this index", where=str(path),
                             hint="wait for it")
    return IndexNotFound(f"the index has no view {kind}: the job that was to build it was interrupted", where=str(path),
                         hint=f"{RERUN}: {job.command}")
