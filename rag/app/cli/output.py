"""What commands print: JSON, and lines in which a terminal obeys nothing."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from ...markup import json_escaped, visible


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf"), default=str)
    print(json_escaped(text))


def show(report: Any, as_json: bool, shown: Callable[[Any], None]) -> None:
    """A job's report, as JSON or as people read it."""
    if as_json:
        print_json(report.to_dict())
    else:
        shown(report)


def say(text: str, *, error: bool = False) -> None:
    """Print a line in which a terminal obeys nothing."""
    print(visible(text), file=sys.stderr if error else sys.stdout)


def keep_terminal_safe() -> None:
    """Log lines, warnings and tracebacks may quote a document; and what the terminal's encoding lacks is no reason to
    fail."""

    class Visible(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return visible(super().format(record))

    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)  # some libraries' loggers have a lower level of their own
    handler.setFormatter(Visible())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = lambda *raised: say("".join(traceback.format_exception(*raised)).rstrip(), error=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Whoever stops reading (``| head``) sees no complaint, not even of Python as it exits."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
