"""Outputs of deterministic stages on disk, one small JSON file a query, so that a batch reuses what single queries
computed.

The key is the stage's fingerprint (settings, index version, weights) with the inputs' own content. A damaged entry
counts as absent, and a disk that is full costs the cache, never the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, FingerprintMismatch, RegardError
from ..files import replacing
from ..nouns import Group, Ranking, State
from ..parts.identity import same_key
from .stores import open_store

log = logging.getLogger(__name__)

_OF_STORES = (Ranking, Group, State)
"""Nouns that may hold rankings, which name the stores of their passages."""


class StageCache:
    """A folder of stage outputs; several processes may share it. An entry begins with a digest of its key and of the
    rest of it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def keeps(self, kind: Any) -> bool:
        """Whether outputs of this type can be kept: the nouns of ``documents`` and others that go to JSON and back."""
        return hasattr(kind, "to_dict") and hasattr(kind, "from_dict")

    def key(self, stage_fingerprint: str, inputs: Sequence[Any]) -> str:
        """The key of one query's output: ``inputs`` are that query's values, one a port."""
        digest = hashlib.blake2b(stage_fingerprint.encode(), digest_size=20)
        for value in inputs:
            digest.update(same_key(value.to_dict() if hasattr(value, "to_dict") else value).encode())
        return digest.hexdigest()

    def get(self, key: str, kind: type) -> Any | None:
        """The value stored under ``key``, of class ``kind``, or None."""
        path = self._path(key)
        try:
            digest, _, body = path.read_bytes().partition(b"\n")
            if digest != _digest(key, body):
                raise ValueError("its content is not what was written")
            data, opened = json.loads(body), (open_store,) if kind in _OF_STORES else ()
            return kind.from_dict(data, *opened)  # type: ignore[attr-defined]  # every noun has it
        except (FileNotFoundError, FingerprintMismatch):  # nothing, or over an index that is another now
            return None
        except (OSError, ValueError, KeyError, TypeError, RegardError) as error:
            log.warning("cache entry %s cannot be read (%s); it is computed again", path, error)
            return None

    def put(self, key: str, value: Any) -> None:
        """Store ``value`` whole or not at all."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            body = json.dumps(value.to_dict()).encode()
            with replacing(path) as file:
                file.write(_digest(key, body) + b"\n" + body)
        except (OSError, TypeError, ValueError, ConfigError) as error:  # the disk, or metadata that is no JSON
            log.warning("the stage cache at %s cannot be written (%s); going on without", self.folder, error)

    def clear(self) -> int:
        """Delete every entry; how many there were."""
        entries = list(self.folder.glob("??/*.json"))
        for entry in entries:
            entry.unlink(missing_ok=True)
        return len(entries)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


class Names:
    """One query's ``inputs`` without the names in their histories: pipelines that call the same stages otherwise share
    what is kept.

    Each name stands for its place among the names of the inputs; those of stages within the stage at ``path`` for their
    own path there.
    """

    def __init__(self, inputs: Sequence[Any], path: str) -> None:
        self._places: dict[str, str] = {}
        self._path = path + "/"
        self.inputs = [_renamed(value, lambda name: self._places.setdefault(name, f"#{len(self._places)}"))
                       for value in inputs]
        self._names = {place: name for name, place in self._places.items()}

    def removed(self, value: Any) -> Any:
        """An output of the stage without names."""
        def place(name: str) -> str:
            own = "@/" + name[len(self._path):] if name.startswith(self._path) else name
            return self._places.get(name, own)

        return _renamed(value, place)

    def restored(self, value: Any) -> Any:
        """What :meth:`removed` gave, maybe elsewhere, with the names that these inputs have."""
        def called(place: str) -> str:
            own = self._path + place[2:] if place.startswith("@/") else place
            return self._names.get(place, own)

        return _renamed(value, called)


def _renamed(value: Any, name: Callable[[str], str]) -> Any:
    return value.renamed(name) if hasattr(value, "renamed") else value


def _digest(key: str, body: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + body, digest_size=16).hexdigest().encode()
