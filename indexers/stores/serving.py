"""Which version of an index pipelines read, as far as it hangs on what lies in the index's folder beside the store.

While a job is writing, that is the newest version that has its views: every commit in between has none yet, and
building them for each would be as much work as the job's own.
"""

from __future__ import annotations

from pathlib import Path

from .integrity import read_sealed
from .protocols import Store

VIEWS = "views"
DESCRIPTION = "view.json"
"""``views/<name>/<version>/view.json`` says which ``version`` and ``commit`` of which ``dataset`` a view is of."""

Marks = tuple[int, ...]


def finished(store: Store) -> int | None:
    """The newest version in the store's history for which each of its views lies on disk; None where there is none."""
    built = [set(_versions(home, store)) for home in (store.path / VIEWS).glob("*/")]
    return max(set.intersection(*built), default=None) if built else None


def _versions(home: Path, store: Store) -> list[int]:
    """The versions in the store's history that one view lies there for."""
    found = [read_sealed(folder / DESCRIPTION) for folder in home.glob("*/") if folder.name.isdigit()]
    return [said["version"] for said in found if said and said.get("dataset") == store.manifest["id"]
            and store.descends_from(said["version"], said.get("commit", ""))]


def marks(*folders: Path) -> Marks:
    """What changes with whatever is put into one of these folders, or taken out."""
    return tuple(_changed(folder) for folder in folders)


def view_marks(path: Path) -> Marks:
    """What changes with every view that is put in place in the index at ``path``."""
    return marks(path / VIEWS, *sorted((path / VIEWS).glob("*/")))


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
