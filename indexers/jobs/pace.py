"""How much a job encodes at once and how often it commits: by the clock, so that what an interruption costs grows
neither with the shard nor with the model's slowness."""

from __future__ import annotations

import time

COMMIT_SECONDS = 30.0
ENCODED_AT_ONCE = 256
"""Texts in one call of an encoder; more are no faster."""

_PROBES = (16, 48)
"""The first two blocks. The second one's speed counts: the first call compiles kernels and warms caches."""
_LONGEST = 0.75  # of the seconds between commits: the longest that a block should take

clock = time.monotonic


class Pace:
    """When to commit, for at most ``seconds`` of work between two commits.

    ``block`` is how many passages to encode before looking at the clock again: 256, fewer (a power of two) only where
    256 would take too long, so that which texts are encoded together, and with that a vector's last digit, does not
    hang on a fast machine's timing.
    """

    def __init__(self, seconds: float = COMMIT_SECONDS) -> None:
        self.seconds = seconds
        self.block = _PROBES[0]
        self._probes = iter(_PROBES[1:])
        self._expected = 0.0  # seconds that the next block will take
        self.restart()

    def now(self) -> float:
        """Seconds on the clock that this goes by."""
        return clock()

    def restart(self) -> None:
        """There is nothing to commit any more; work begins now."""
        self._since = self.now()

    @property
    def due(self) -> bool:
        """Whether to commit now, lest the next block make it too late."""
        return self.now() - self._since + self._expected >= self.seconds

    def encoded(self, texts: int, seconds: float) -> None:
        """A block was encoded, ``texts`` of it anew, in so many seconds; sets the size of the next one."""
        if texts:  # else everything was known, which says nothing of the encoder
            each = seconds / texts
            self.block = next(self._probes, 0) or self._affordable(each)
            self._expected = self.block * each

    def _affordable(self, each: float) -> int:
        """The largest power of two up to 256 of passages, at ``each`` seconds, that is encoded in time."""
        block = ENCODED_AT_ONCE
        while block > 1 and block * each > _LONGEST * self.seconds:
            block //= 2
        return block
