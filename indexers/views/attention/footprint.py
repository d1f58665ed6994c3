"""How much disk a view will take, said before the work starts and kept beside the view for ``regard doctor``."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ....rag.errors import StorageError
from ....rag.markup import size
from .layout import Layout

FOOTPRINT = "footprint.json"
"""Beside a large view: its name (``view``), and the ``passages`` and ``bytes`` it has when it is whole."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What ``missing`` passages will take beside the ``present`` ones (``present_bytes``).

    ``tokens``: of the missing passages, counted in all of them, or (``counted`` false) estimated from a sample.
    """

    view: str
    present: int
    present_bytes: int
    missing: int
    tokens: float
    counted: bool
    layout: Layout

    @property
    def missing_bytes(self) -> int:
        return round(self.tokens * self.layout.token_bytes)

    def __str__(self) -> str:
        mean = self.tokens / max(self.missing, 1)
        about, more = "" if self.counted else "about ", " more" if self.present else ""
        return (f"{self.view}: {self.layout.token_bytes:,} bytes a token, "
                f"{size(round(mean * self.layout.token_bytes))} a passage "
                f"({about}{mean:.0f} tokens), {size(self.missing_bytes)} for {self.missing:,}{more} passages")

    def expect_room(self, home: Path) -> None:
        """Raise ``StorageError`` where the disk of ``home`` has not the room."""
        free = shutil.disk_usage(home).free
        if self.missing_bytes <= free:
            return
        with_codes = round(self.tokens * replace(self.layout, bits=8).token_bytes)
        codes = "" if self.layout.bits == 8 else f"store 8 bits (bits=8: {size(with_codes)}), "
        raise StorageError(
            f"the view {self.view} needs {size(self.missing_bytes)} for {self.missing:,} passages, and {size(free)} "
            f"are free",
            where=str(home),
            hint=f"free some space, {codes}or store only the layers that a head set needs (heads=shipped, "
                 f"heads=FILE.json or last=LAYER)")

    def save(self, home: Path) -> None:
        """Keep it as ``footprint.json`` (bytes and passages of the whole view), which ``regard doctor`` compares with
        what is there."""
        whole = {"view": self.view, "passages": self.present + self.missing,
                 "bytes": self.present_bytes + self.missing_bytes}
        new = home / f"new-{FOOTPRINT}"
        new.write_text(json.dumps(whole))
        new.replace(home / FOOTPRINT)
