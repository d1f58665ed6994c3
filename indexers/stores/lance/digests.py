"""What the files of an index hold, so that damage is told from data.

Files that are committed never change; whoever commits one notes its size and SHA-256 first: a view in its description, the passage store
in ``digests.jsonl``, one line a file, beside the data files that it is about. A line for a file that was never committed does no harm.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ....rag.files import replace_text

LEDGER = "digests.jsonl"


@dataclass(frozen=True, slots=True)
class Digest:
    """A file's size in bytes and the SHA-256 of its content, in hexadecimal; of what describes a version also which commit it is of,
    since another history gives the same name to another file."""

    bytes: int
    sha256: str
    commit: str = ""

    @classmethod
    def of(cls, file: Path) -> Digest:
        with file.open("rb") as opened:
            return cls(os.fstat(opened.fileno()).st_size, hashlib.file_digest(opened, "sha256").hexdigest())


class Ledger:
    """The digests of the files in ``folder`` (a Lance dataset), by their POSIX paths in it; only ever appended to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note(self, files: Iterable[Path], commit: str = "") -> None:
        """Write down the digests of ``files``, which lie in the folder and will not change; the ledger is the caller's to sync."""
        found = {file.relative_to(self._folder).as_posix(): replace(Digest.of(file), commit=commit) for file in files}
        lines = [json.dumps({"file": name, **asdict(digest)}) for name, digest in found.items()]
        with (self._folder / LEDGER).open("a", encoding="utf-8") as ledger:
            ledger.write("".join(f"\n{line}\n" for line in lines))  # a line that a full disk cut off spoils no other

    def forget(self, names: Iterable[str]) -> None:
        """The files of these names are gone on purpose."""
        with (self._folder / LEDGER).open("a", encoding="utf-8") as ledger:
            ledger.write("".join(f"\n{json.dumps({'file': name, 'gone': True})}\n" for name in names))

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
                if "gone" in entry:
                    found.pop(entry["file"], None)
                    continue
                found[entry["file"]] = Digest(int(entry["bytes"]), str(entry["sha256"]), str(entry.get("commit", "")))
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def keep(self, files: Iterable[Path]) -> None:
        """Forget all other files. A reader sees the old ledger or the new one."""
        kept = {file.relative_to(self._folder).as_posix() for file in files}
        before = self.digests()
        if before.keys() <= kept:
            return
        lines = (json.dumps({"file": name, **asdict(digest)}) for name, digest in before.items() if name in kept)
        replace_text(self._folder / LEDGER, "".join(f"\n{line}\n" for line in lines))
