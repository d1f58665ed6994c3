"""The digests of a dataset's files, in ``digests.jsonl`` beside them: one line a file, noted before the file is
committed.

A line for a file that was never committed does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from ....rag.files import replace_text
from ..integrity import Digest

LEDGER = "digests.jsonl"


class Ledger:
    """The digests of the files in ``folder`` (a Lance dataset), by their POSIX paths in it; only ever appended to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note(self, files: Iterable[Path], commit: str = "") -> None:
        """Write down the digests of ``files``, which lie in the folder and will not change; the ledger is the caller's
        to sync."""
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
