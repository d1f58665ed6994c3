"""Compaction of a Lance dataset: small fragments written together, versions that nobody needs removed, and all files
that none names.

An index grows by a fragment with each commit, and keeps every version. Tags and open readers (see ``leases``) keep
theirs.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from ....rag.errors import DeletionRefused
from . import commits, leases
from .digests import Ledger
from .pending import PENDING, carry_pending
from .store import DATASET, open_dataset
from .writer import next_row

_PARTS = ("_versions", "_transactions", "_deletions", "data")
_POLL_SECONDS = 0.05


class LanceUpkeep:
    """An ``Upkeep`` of the index at ``path``, as it is when this is made."""

    def __init__(self, path: Path) -> None:
        """Raises ``IndexNotFound``, ``IndexFormatError``."""
        self.path = path
        self._dataset = open_dataset(path)

    @property
    def version(self) -> int:
        return int(self._dataset.version)

    @property
    def fragments(self) -> int:
        return len(self._dataset.get_fragments())

    def expect_removable(self, keep: int, wait: float) -> None:
        manifests = self._older(keep)
        deadline = time.monotonic() + wait
        while reasons := self._kept_by(manifests):
            if time.monotonic() >= deadline or self._tags().keys() & manifests.keys():
                raise DeletionRefused(
                    f"older versions of this index are in use, and hold what is to be purged: {'; '.join(reasons)}",
                    where=str(self._dataset.uri),
                    hint="close the readers and delete the tags, then run it again; or give readers time to close: "
                         "--wait SECONDS")
            time.sleep(_POLL_SECONDS)

    def compact(self, purge: bool) -> None:
        self._dataset = commits.compact(self._dataset)
        if purge:
            self._dataset = _with_silent_commit(self._dataset)
        carry_pending(self.path, self._dataset)

    def remove_versions(self, keep: int) -> int:
        tagged = self._tags()
        older = self._older(keep).items()
        return sum(leases.remove(manifest) for version, manifest in older if version not in tagged)

    def kept(self, keep: int) -> list[str]:
        return self._kept_by(self._older(keep))

    def sweep(self) -> None:
        """No writer is alive: whoever calls this holds the lock."""
        self._dataset.cleanup_old_versions(retain_versions=max(1, len(leases.versions(self._dataset))),
                                           delete_unverified=True, error_if_tagged_old_versions=False)
        folder = self.path / DATASET
        for file in (file for part in _PARTS for file in (folder / part).glob("*")):
            if file.name.startswith(".tmp") or "#" in file.name:  # Lance's, and its object store's, unfinished
                file.unlink()
        Ledger(folder).keep(file for file in folder.rglob("*") if file.is_file())
        for leftover in (*folder.glob("*.new"), *(self.path / PENDING).glob("*.new")):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    def _older(self, keep: int) -> dict[int, Path]:
        """The versions before the newest ``keep``."""
        known = list(leases.versions(self._dataset).items())
        return dict(known[:-keep] if keep else known)

    def _kept_by(self, manifests: dict[int, Path]) -> list[str]:
        """Who needs which of these versions, in words."""
        tags = self._tags()
        named = [f"the tag {name!r} names version {version}" for version in manifests for name in tags.get(version, ())]
        read = [f"{reader} reads version {version}"
                for version, file in manifests.items() for reader in leases.readers(file)]
        return named + read

    def _tags(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for name, tag in self._dataset.tags.list().items():
            found.setdefault(int(tag["version"]), []).append(name)
        return found


def _with_silent_commit(dataset: Any) -> Any:
    """What the newest commit says of itself may name what it deleted: then another one is put after it."""
    import lance

    silent = (lance.LanceOperation.Rewrite, lance.LanceOperation.UpdateConfig)
    if isinstance(dataset.read_transaction(int(dataset.version)).operation, silent):
        return dataset
    return commits.configure(dataset, **{"regard.next_row": str(next_row(dataset))})
