"""The ``regard`` command: a file a command, each imported when it is run or its help is shown; heavy imports happen
inside commands.

A new command is a file with a ``typer.Typer`` named ``app``, and a line in the table.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, cast

import typer
import typer.core
import typer.main

from ...errors import RegardError
from .output import flush, keep_terminal_safe, say

COMMANDS = {
    "index": ".index", "delete": ".delete", "compact": ".compact", "verify": ".verify", "search": ".search",
    "ask": ".ask", "run": ".run", "eval": ".evaluate", "init": ".init", "check": ".check", "graph": ".graph",
    "schema": ".schema", "heads": ".heads", "methods": ".methods", "doctor": ".doctor", "demo": ".demo",
}
"""In the order of ``regard --help``."""


@functools.cache
def _command(name: str) -> Any:
    """Typer's command of this name. Raises ``KeyError`` where there is none."""
    command = typer.main.get_command(import_module(COMMANDS[name], __name__).app)
    command.name = name
    return command


class _Commands(Mapping[str, Any]):
    """The commands by name; one is imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(typer.core.TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast(Any, _Commands())


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"regard {version('regard')}")
        raise typer.Exit


app = typer.Typer(
    cls=_Group, name="regard", no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="Retrieval-augmented generation as a typed DAG: index, search, rerank, and answer with citations.",
    epilog="Start with [bold]regard demo[/bold], or: regard index docs/ --index my-index && "
           "regard ask my-index 'How do I ...?'",
)
_VERSION = typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")


@app.callback()
def regard(version: Annotated[bool, _VERSION] = False) -> None:
    """What all commands share: nothing but these options (the help text is the app's)."""


def main() -> None:
    """Run the command; one of Regard's own errors is printed, not traced (``REGARD_DEBUG=1`` traces it)."""
    keep_terminal_safe()
    try:
        app()
    except RegardError as error:
        if os.environ.get("REGARD_DEBUG"):
            raise
        say("\n".join((f"error: {error}", *getattr(error, "__notes__", ()))), error=True)
        sys.exit(1)
    finally:
        flush()
