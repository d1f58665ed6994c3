"""What the versions of a view say of themselves: ``views/<slug>/<dataset version>/view.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..store import LanceStore
from .spec import ViewSpec

DESCRIPTION = "view.json"


@dataclass(frozen=True, slots=True)
class Version:
    """A view's folder and its description: ``spec``, ``dataset``, ``version``, ``commit``, ``passages``, ``build``, for some kinds
    ``made_by``.

    ``commit`` says which of several histories' ``version`` it is (see ``store``).
    ``build`` is another each time: an approximate index that was extended is not the one that is built in one go.
    """

    folder: Path
    meta: dict[str, Any]

    @property
    def spec(self) -> ViewSpec:
        spec = self.meta["spec"]
        return ViewSpec(spec["kind"], spec["encoder"], spec["parameters"])


def newest_versions(path: Path) -> list[Version]:
    """The newest version of each view that was ever built for the index at ``path``."""
    # looked at twice: a builder may remove the old version between our listing it and our reading it
    newest = [_newest(home) or _newest(home) for home in sorted((path / "views").glob("*/"))]
    return [version for version in newest if version]


def view_specs(path: Path) -> list[ViewSpec]:
    """The views that were ever built for the index at ``path``."""
    return [version.spec for version in newest_versions(path)]


def versions_of(home: Path, store: LanceStore) -> list[Version]:
    """The versions of one view by folders of ``store``'s very dataset, newest first, of whatever history."""
    folders = sorted((f for f in home.glob("*/") if f.name.isdigit()), key=lambda folder: int(folder.name), reverse=True)
    return [Version(folder, meta) for folder in folders if (meta := read_meta(folder, store))]


def is_ancestor(version: Version, store: LanceStore) -> bool:
    """Whether the view was built from a version in ``store``'s own history."""
    return store.descends_from(version.meta["version"], version.meta.get("commit", ""))


def read_meta(folder: Path, store: LanceStore) -> dict[str, Any] | None:
    """The description of the view in ``folder``, when it belongs to ``store``'s very dataset."""
    meta = read_json(folder / DESCRIPTION)
    return meta if meta is not None and meta.get("dataset") == store.manifest["id"] else None


def spec_json(spec: ViewSpec) -> dict[str, Any]:
    return {"kind": spec.kind, "encoder": spec.encoder, "parameters": spec.parameters}


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file, or it is no JSON."""
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        return data
    except (OSError, ValueError):
        return None


def _newest(home: Path) -> Version | None:
    found = [Version(folder, meta) for folder in home.iterdir() if folder.name.isdigit() and (meta := read_json(folder / DESCRIPTION))]
    return max(found, key=lambda version: int(version.meta["version"]), default=None)
