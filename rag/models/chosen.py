"""Which models the user has named: an index from others may not choose what is loaded.

An index names the model that made it. One that is no embedded one is loaded for an index only where the user has named
it, by itself or when the index was made (``trusted.json`` in :func:`state_dir` keeps which, with the hash of its
weights), or has said yes to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import RegardError, UntrustedModel
from ..files import replace_text
from ..trust import Connection
from .resolve import EMBEDDED, resolve, weights_hash

_this_process: set[str] = set()
_lock = threading.Lock()


def state_dir() -> Path:
    """``$XDG_STATE_HOME/regard``, else ``~/.local/state/regard``."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "regard"


def choose(model: str, *, remember: bool = True) -> None:
    """The user has named ``model``, or agreed to it: indexes may name it too, on this machine, as long as its weights
    stay what they are (those of a hub's id that was not on this machine then: whatever the hub has under it).

    ``remember`` False holds for this process only, and so does what cannot be written down.
    """
    if model in EMBEDDED:
        return
    files = resolve(model)
    with _lock:
        _this_process.add(files.path)
        if remember:
            with suppress(OSError):
                _record(files.path, weights_hash(files))


def is_chosen(model: str) -> bool:
    """Whether the user has named ``model``. Nothing of one that was never named is read."""
    if model in EMBEDDED:
        return True
    try:
        files = resolve(model)
    except RegardError:
        return True  # it is not there, which says whoever wants to load it
    if files.path in _this_process:
        return True
    weights = _recorded().get(files.path)
    return weights is not None and (f"hub:{files.path}" in weights or weights_hash(files) in weights)


def expect_chosen(model: str, what: str, index: object) -> None:
    """Raise ``UntrustedModel`` unless the user has named ``model``, which ``index`` names as its ``what``."""
    if not is_chosen(model):
        raise UntrustedModel(f"the index names {model!r} as its {what}, and on this machine nobody else has",
                             where=str(index),
                             hint="an index from others may not choose which model is loaded: if you trust it, give "
                                  "--trust, call "
                                  "regard.rag.models.chosen.choose(model), or name the model yourself (encoder=...)")


def _trusted_file() -> Path:
    return state_dir() / "trusted.json"


def _recorded() -> dict[str, list[str]]:
    """Path or hub id of each model, with the hashes of the weights that it had when it was chosen."""
    try:
        data = json.loads(_trusted_file().read_text(encoding="utf-8"))["models"]
        return {str(path): [str(weights) for weights in known] for path, known in data.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # what cannot be read allows nothing


def _record(path: str, weights: str) -> None:
    if weights in _recorded().get(path, []):
        return
    file = _trusted_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _recorded()
        known[path] = [*known.get(path, []), weights]
        replace_text(file, json.dumps({"models": known}, indent=1))


def hub(names: Iterable[str]) -> Iterator[Connection]:
    """The Hugging Face hub, where one of ``names`` is an id there: its library asks it about models, with the user's
    own token."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if not offline and any(_is_hub_id(name) for name in names):
        host = os.environ.get("HF_ENDPOINT",
                              "https://huggingface.co").partition("://")[2].partition("/")[0].rpartition("@")[2]
        yield Connection(host, "HF_TOKEN", bool(os.environ.get("HF_TOKEN")))


def _is_hub_id(name: str) -> bool:
    try:
        return "/" in name and name not in EMBEDDED and not resolve(name).local
    except RegardError:
        return False
