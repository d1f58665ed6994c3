"""What to say of a view that is not there."""

from __future__ import annotations

from pathlib import Path

from ...rag.errors import IndexNotFound
from ..stores.locks import is_locked
from ..stores.unfinished import RERUN, jobs
from .spec import ViewSpec
from .versions import view_specs


def missing_view(path: Path, spec: ViewSpec) -> IndexNotFound:
    """The error for a view that was never built: its job did not get there, or nobody asked for it."""
    job = next((job for job in jobs(path) if spec.slug in job.views), None)
    if job is None:
        built = ", ".join(map(str, view_specs(path))) or "none"
        return IndexNotFound(f"the index has no view {spec}", where=str(path),
                             hint=f"add it: regard index --index {path} --view {spec.kind}; it has: {built}")
    if is_locked(path):
        return IndexNotFound(f"the view {spec} is not built yet: a job is working on this index", where=str(path), hint="wait for it")
    return IndexNotFound(f"the index has no view {spec}: the job that was to build it was interrupted", where=str(path),
                         hint=f"{RERUN}: {job.command}")
