"""The pipeline that a command runs, with the user's consent to what an index or a file of others names; and what it is
asked and gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from ...dag.pipeline import Pipeline
from ...errors import ConfigError, RegardError
from ...models.chosen import choose
from ...nouns import Query
from ...tables import table
from ..presets import default_pipeline


def pipeline_for(
    index: Path | None, file: Path | None, *, answer: bool, allow_key: list[str] | None, trust: bool,
) -> Pipeline:
    """The pipeline of ``file``, or the default one over ``index``."""
    if file is not None:
        return load(file, index, allow_key, trust)
    consent([index or Path()], trust)
    return default_pipeline(index or Path(), answer=answer)


def load(file: Path, index: Path | None, allow_key: list[str] | None = None, trust: bool = False) -> Pipeline:
    """The pipeline of ``file``, with ``index`` in every stage that takes one."""
    pipeline = Pipeline.load(file, allow_keys=allow_key or (), **({"index": index} if index else {}))
    consent(pipeline.indexes(), trust)
    return pipeline


def consent(indexes: list[Path], trust: bool) -> None:
    """Before an index's models are loaded: with ``--trust``, or a yes on a terminal, they count as the user's own
    choice. Else the stage that would load one refuses to."""
    for index in indexes:
        try:
            unknown = table("regard.jobs")["models"](index)
        except RegardError:
            continue  # whoever opens it says what is wrong with it
        for what, model in unknown:
            if trust:
                choose(model, remember=False)
            elif sys.stdin.isatty() and sys.stderr.isatty():
                asked = f"The index {index} names {model!r} as its {what}, and you have not. Load it?"
                if typer.confirm(asked, err=True):
                    choose(model)


def filtered(text: str, filters: list[str] | None) -> Query:
    return Query(text, filters=dict(_filter(item) for item in filters or []))


def _filter(item: str) -> tuple[str, Any]:
    """``year=2024``: the value is read as JSON where it is JSON, else as text."""
    field, equals, value = item.partition("=")
    if not field or not equals:
        raise ConfigError(f"{item!r} is no filter", where="--filter", hint="write FIELD=VALUE, for example year=2024")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def first(result: Any, kind: type, name: str, *, optional: bool = False) -> Any:
    """The pipeline's output of this kind; the first one where there are several."""
    found = next((value for value in result.outputs.values() if isinstance(value, kind)), None)
    if found is None and not optional:
        raise ConfigError(f"the pipeline has no output of type {kind.__name__}", where=name,
                          hint=f"name one under outputs; it gives {', '.join(result.outputs)}")
    return found
