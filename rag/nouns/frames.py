"""Nouns as pandas' data frames, and what a view of one is."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import MissingDependency


class Figure(Protocol):
    """What is shown in a notebook's cell, printed as text, and saved as one self-contained page."""

    def _repr_html_(self) -> str: ...

    def save(self, path: str | Path) -> Path:
        """Write the page. Raises ``StorageError`` when the file cannot be written."""


def data_frame(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> Any:
    """A ``pandas.DataFrame``. Raises ``MissingDependency`` where pandas is not installed."""
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise MissingDependency("pandas is not installed", where="to_pandas", hint="pip install pandas") from error
    return pandas.DataFrame(list(rows), columns=list(columns))
