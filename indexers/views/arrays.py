"""Opening what numpy wrote, beside other threads.

numpy reads the header of an ``.npy`` file with ``ast``, which before Python 3.11.8 raises ``SystemError`` now and then
when several threads use it at once (CPython issue 106905): a sound view would look damaged.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from threading import RLock

opening = RLock() if sys.version_info < (3, 11, 8) else nullcontext()
"""Entered while ``.npy`` and ``.npz`` files are opened."""
