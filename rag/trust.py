"""What the user has allowed, outside the files that ask for it: keys for hosts, and models for indexes.

A pipeline file and an index may come from anybody. A file names a server and the environment variable of its key; an index names the model
that made it. Neither may choose on its own:

- a key variable goes to a host only where the user has said so: in ``$REGARD_KEYS`` (``"host=VAR,host:port=VAR"``), in ``keys.yaml`` in
  :func:`config_dir` (``host: VAR``), with ``--allow-key host=VAR``, or with ``Pipeline.load(file, allow_keys=["host=VAR"])``.
  ``OPENAI_API_KEY`` for ``api.openai.com`` is built in. A stage that was made in Python is its author's own, and needs none of it.
- a model that is no embedded one is loaded for an index only where the user has named it, by itself or when the index was made
  (``trusted.json`` in :func:`state_dir` keeps which, with the hash of its weights), or has said yes to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import models
from .errors import ConfigError, RegardError, UntrustedModel
from .plain import read_yaml

BUILT_IN = ("api.openai.com=OPENAI_API_KEY",)
_RULE = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\s=:/@\[\]]+)(?::(?P<port>\d{1,5}))?=(?P<variable>[A-Za-z_][A-Za-z0-9_]*)")


# -- keys -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyRule:
    """``variable`` may go to ``host`` at ``port`` (None: at the default port of its scheme)."""

    host: str
    port: int | None
    variable: str


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """The file that a stage's settings are from, but for those that were ``overridden`` when it was loaded, and the rules that were given
    then. No part of a stage's fingerprint."""

    file: str
    rules: tuple[KeyRule, ...] = ()
    overridden: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Connection:
    """A server that a stage would use, with the environment variable whose value it would send there.

    ``refused`` says why that may not be, empty where it may; ``hint`` what to do about it. ``set``: the variable has a value now.
    """

    host: str
    variable: str | None
    set: bool
    refused: str = ""
    hint: str = ""


def key_rules(texts: Iterable[str], where: str) -> tuple[KeyRule, ...]:
    """Read ``HOST[:PORT]=VARIABLE``. Raises ``ConfigError`` for anything else."""
    found = []
    for text in texts:
        match = _RULE.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"{text!r} does not say which key may go where", where=where,
                              hint="write HOST=VARIABLE or HOST:PORT=VARIABLE, for example llm.example.org=EXAMPLE_KEY")
        port = match["port"]
        found.append(KeyRule(match["host"].lower().strip("[]"), int(port) if port else None, match["variable"]))
    return tuple(found)


def users_rules() -> tuple[KeyRule, ...]:
    """What is built in, and what the user's environment and ``keys.yaml`` add. Raises ``ConfigError`` for rules that cannot be read."""
    listed = [text for text in os.environ.get("REGARD_KEYS", "").split(",") if text.strip()]
    return (*key_rules(BUILT_IN, "built in"), *key_rules(listed, "$REGARD_KEYS"), *_from_file(config_dir() / "keys.yaml"))


def _from_file(path: Path) -> tuple[KeyRule, ...]:
    if not path.is_file():
        return ()
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError("this does not say which key may go where", where=str(path), hint="write lines like llm.example.org: EXAMPLE_KEY")
    pairs = [(host, name) for host, names in data.items() for name in (names if isinstance(names, list) else [names])]
    return key_rules((f"{host}={name}" for host, name in pairs), str(path))


def allows(rules: Iterable[KeyRule], host: str, port: int, default_port: int, variable: str) -> bool:
    """Whether ``variable`` may go to ``host``, as the sender itself has read it, at ``port``."""
    return KeyRule(host.lower(), port, variable) in rules or (port == default_port and KeyRule(host.lower(), None, variable) in rules)


def hub(names: Iterable[str]) -> Iterator[Connection]:
    """The Hugging Face hub, where one of ``names`` is an id there: its library asks it about models, with the user's own token."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if not offline and any(_is_hub_id(name) for name in names):
        host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").partition("://")[2].partition("/")[0].rpartition("@")[2]
        yield Connection(host, "HF_TOKEN", bool(os.environ.get("HF_TOKEN")))


def _is_hub_id(name: str) -> bool:
    try:
        return "/" in name and name not in models.EMBEDDED and not models.resolve(name).local
    except RegardError:
        return False


def config_dir() -> Path:
    """``$XDG_CONFIG_HOME/regard``, else ``~/.config/regard``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "regard"


# -- models ---------------------------------------------------------------------------------

_this_process: set[str] = set()
_lock = threading.Lock()


def state_dir() -> Path:
    """``$XDG_STATE_HOME/regard``, else ``~/.local/state/regard``."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "regard"


def choose(model: str, *, remember: bool = True) -> None:
    """The user has named ``model``, or agreed to it: indexes may name it too, on this machine, as long as its weights stay what they are
    (those of a hub's id that was not on this machine then: whatever the hub has under it).

    ``remember`` False holds for this process only, and so does what cannot be written down.
    """
    if model in models.EMBEDDED:
        return
    files = models.resolve(model)
    with _lock:
        _this_process.add(files.path)
        if remember:
            with suppress(OSError):
                _record(files.path, models.weights_hash(files))


def is_chosen(model: str) -> bool:
    """Whether the user has named ``model``. Nothing of one that was never named is read."""
    if model in models.EMBEDDED:
        return True
    try:
        files = models.resolve(model)
    except RegardError:
        return True  # it is not there, which says whoever wants to load it
    if files.path in _this_process:
        return True
    weights = _recorded().get(files.path)
    return weights is not None and (f"hub:{files.path}" in weights or models.weights_hash(files) in weights)


def expect_chosen(model: str, what: str, index: object) -> None:
    """Raise ``UntrustedModel`` unless the user has named ``model``, which ``index`` names as its ``what``."""
    if not is_chosen(model):
        raise UntrustedModel(f"the index names {model!r} as its {what}, and on this machine nobody else has", where=str(index),
                             hint="an index from others may not choose which model is loaded: if you trust it, give --trust, call "
                                  "regard.rag.trust.choose(model), or name the model yourself (encoder=...)")


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
        new = file.with_suffix(".new")
        new.write_text(json.dumps({"models": known}, indent=1), encoding="utf-8")
        new.replace(file)
