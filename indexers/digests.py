"""What the files of an index hold, so that damage is told from data.

Files that are committed never change; whoever commits one notes its size and SHA-256 first: a view in its description, the passage store
in ``digests.jsonl``, one line a file, beside the data files that it is about. A line for a file that was never committed does no harm.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

LEDGER = "digests.jsonl"


@dataclass(frozen=True, slots=True)
class Digest:
    """A file's size in bytes and the SHA-256 of its content, in hexadecimal."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> Digest:
        with file.open("rb") as opened:
            return cls(os.fstat(opened.fileno()).st_size, hashlib.file_digest(opened, "sha256").hexdigest())


class Ledger:
    """The digests of the files in ``folder`` (a Lance dataset), by their POSIX paths in it; only ever appended to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note(self, files: Iterable[Path]) -> None:
        """Have the digests of ``files``, which lie in the folder and will not change, reach the disk."""
        lines = [json.dumps({"file": file.relative_to(self._folder).as_posix(), **asdict(Digest.of(file))}) for file in files]
        with (self._folder / LEDGER).open("a", encoding="utf-8") as ledger:
            ledger.write("".join(f"\n{line}\n" for line in lines))  # a line that a full disk cut off spoils no other
            ledger.flush()
            os.fsync(ledger.fileno())

    def digests(self) -> dict[str, Digest]:
        """What was noted, the last word on each file; lines that cannot be read are left out."""
        found: dict[str, Digest] = {}
        try:
            text = (self._folder / LEDGER).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return found
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                found[entry["file"]] = Digest(int(entry["bytes"]), str(entry["sha256"]))
            except (ValueError, KeyError, TypeError):
                continue
        return found
