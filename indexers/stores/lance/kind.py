"""The kind of store that keeps its passages in a Lance dataset in the index's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ....rag.errors import IndexNotFound
from ..protocols import Fingerprint, StoreKind
from .check import LanceCheck
from .serving import ServedStore, serve
from .store import SCHEME, LanceStore, exists, open_dataset
from .upkeep import LanceUpkeep
from .writer import StoreWriter


class Lance(StoreKind):
    """Every commit is one transaction; older versions are kept until a compaction removes them."""

    scheme = SCHEME
    packages: ClassVar = {"lance": "pylance"}

    def exists(self, path: Path) -> bool:
        return exists(path)

    def version(self, path: Path) -> int | None:
        try:
            return int(open_dataset(path).version)
        except IndexNotFound:
            return None

    def open(self, path: Path) -> LanceStore:
        return LanceStore(path)

    def serve(self, path: Path) -> ServedStore:
        return serve(path)

    def write(
        self, path: Path, *, chunker: Mapping[str, object] | None = None, text: bool = True,
        encoders: Mapping[str, Fingerprint] | None = None,
    ) -> StoreWriter:
        return StoreWriter(path, chunker=chunker, text=text, encoders=encoders)

    def upkeep(self, path: Path) -> LanceUpkeep:
        return LanceUpkeep(path)

    def check(self, path: Path) -> LanceCheck:
        return LanceCheck(path)
