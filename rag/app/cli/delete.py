"""``regard delete``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError
from .options import IndexDir, Json, Purge, Wait
from .output import show

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard delete my-index notes/old.md · regard delete my-index --from gone.txt · "
                    "regard delete my-index --source docs/ --purge --wait 30")
def delete(
    index: IndexDir,
    ids: Annotated[list[str] | None, typer.Argument(
        metavar="ID...", show_default=False, help="Ids of documents.")] = None,
    listed: Annotated[Path | None, typer.Option(
        "--from", metavar="FILE", help="A file with an id on each line.")] = None,
    source: Annotated[str | None, typer.Option(
        metavar="PATH", help="All documents that were last read from this source.")] = None,
    purge: Purge = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Delete documents. They are not found any more; their text goes from the disk with --purge, or with the next
    `regard compact`."""
    from ...tables import table
    from ..terminal.jobs import show_deletion

    if not ids and listed is None and source is None:
        raise ConfigError("nothing says what to delete", where="regard delete",
                          hint="give ids, --from FILE or --source PATH")
    wanted = [*(ids or []), *(_lines(listed) if listed else [])]
    report = table("regard.jobs")["delete"](index, wanted, source=source, purge=purge, wait=wait)
    show(report, as_json, show_deletion)


def _lines(file: Path) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of ids cannot be read: {error}", where=str(file),
                          hint="one id a line, in UTF-8") from None
