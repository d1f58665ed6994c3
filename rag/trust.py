"""Which key may go to which server: what the user has allowed, outside the files that ask for it.

A pipeline file may come from anybody. It names a server and the environment variable of its key, and may not choose on
its own: a key variable goes to a host only where the user has said so: in ``$REGARD_KEYS``
(``"host=VAR,host:port=VAR"``), in ``keys.yaml`` in :func:`config_dir` (``host: VAR``), with ``--allow-key host=VAR``,
or with ``Pipeline.load(file, allow_keys=["host=VAR"])``. ``OPENAI_API_KEY`` for ``api.openai.com`` is built in. A stage
that was made in Python is its author's own, and needs none of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError
from .plain import read_yaml

BUILT_IN = ("api.openai.com=OPENAI_API_KEY",)
_RULE = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\s=:/@\[\]]+)(?::(?P<port>\d{1,5}))?="
                   r"(?P<variable>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class KeyRule:
    """``variable`` may go to ``host`` at ``port`` (None: at the default port of its scheme)."""

    host: str
    port: int | None
    variable: str


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """The file that a stage's settings are from, but for those that were ``overridden`` when it was loaded, and the
    rules that were given then. No part of a stage's fingerprint."""

    file: str
    rules: tuple[KeyRule, ...] = ()
    overridden: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Connection:
    """A server that a stage would use, with the environment variable whose value it would send there.

    ``refused`` says why that may not be, empty where it may; ``hint`` what to do about it. ``set``: the variable has a
    value now.
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
    """What is built in, and what the user's environment and ``keys.yaml`` add. Raises ``ConfigError`` for rules that
    cannot be read."""
    listed = [text for text in os.environ.get("REGARD_KEYS", "").split(",") if text.strip()]
    return (*key_rules(BUILT_IN, "built in"), *key_rules(listed, "$REGARD_KEYS"),
            *_from_file(config_dir() / "keys.yaml"))


def _from_file(path: Path) -> tuple[KeyRule, ...]:
    if not path.is_file():
        return ()
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError("this does not say which key may go where", where=str(path),
                          hint="write lines like llm.example.org: EXAMPLE_KEY")
    pairs = [(host, name) for host, names in data.items() for name in (names if isinstance(names, list) else [names])]
    return key_rules((f"{host}={name}" for host, name in pairs), str(path))


def allows(rules: Iterable[KeyRule], host: str, port: int, default_port: int, variable: str) -> bool:
    """Whether ``variable`` may go to ``host``, as the sender itself has read it, at ``port``."""
    return KeyRule(host.lower(), port, variable) in rules or (port == default_port
                                                              and KeyRule(host.lower(), None, variable) in rules)


def config_dir() -> Path:
    """``$XDG_CONFIG_HOME/regard``, else ``~/.config/regard``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "regard"
