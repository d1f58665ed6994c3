"""Pipelines as YAML. A file names stages by registry name and never imports code.

    regard: 1
    name: default
    inputs: {query: Query}
    stages:
      bm25: {stage: BM25, inputs: [query], settings: {index: my-index, k: 100}}
    outputs: {passages: bm25}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import documents
from .errors import ConfigError, PipelineError, RegardError
from .pipeline import Pipeline, Wire
from .registry import stage_class, stage_names
from .stage import Stage, stage_name

INPUT_TYPES = {t.__name__: t for t in (documents.Query, documents.Ranking, documents.Answer)}


class _StageConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    stage: str
    inputs: list[str] = Field(min_length=1)
    settings: dict[str, Any] = {}


class _PipelineConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    regard: Literal[1]
    name: str = "pipeline"
    inputs: dict[str, str] = {"query": "Query"}
    stages: Annotated[dict[str, _StageConfig], Field(min_length=1)]
    outputs: Annotated[dict[str, str], Field(min_length=1)]


def dump(pipeline: Pipeline) -> str:
    """The pipeline as YAML text. Raises ``ConfigError`` for a stage class that is not registered, and for a stage that holds an object."""
    config = {
        "regard": 1,
        "name": pipeline.name,
        "inputs": {name: kind.__name__ for name, kind in pipeline.inputs.items()},
        "stages": {
            name: {"stage": _registered(node.stage), "inputs": [src for src, _ in node.sources], "settings": _settings(node.stage)}
            for name, node in pipeline.nodes.items()
        },
        "outputs": dict(pipeline.outputs),
    }
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120)


def save(pipeline: Pipeline, path: str | Path) -> None:
    """Write ``dump`` to ``path``."""
    text = dump(pipeline)  # first, so that a refusal leaves no half-written file
    Path(path).write_text(text, encoding="utf-8")


def load(path: str | Path, settings: Mapping[str, Any] | None = None) -> Pipeline:
    """Read a file; ``settings`` replace the setting of that name in every stage that has it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the pipeline file cannot be read: {error}", where=str(path), hint="check the path") from None
    return parse(text, settings or {}, str(path))


def parse(text: str, settings: Mapping[str, Any], where: str) -> Pipeline:
    """Build the pipeline that ``text`` describes. Errors name ``where`` and the place in the file."""
    config = _validate(text, where)
    pipeline = Pipeline(config.name)
    wires: dict[str, Wire] = {}
    for name, kind in config.inputs.items():
        if kind not in INPUT_TYPES:
            raise ConfigError(f"input {name!r} has type {kind!r}", where=where, hint=f"types: {', '.join(INPUT_TYPES)}")
        wires[name] = pipeline.input(INPUT_TYPES[kind], name)
    for name in _ordered(config, where):
        stage = _make(name, config.stages[name], settings, where)
        try:
            wires[name] = pipeline.add(stage, *(wires[src] for src in config.stages[name].inputs), name=name)
        except RegardError as error:
            error.add_note(f"in {where}, stages.{name}")
            raise
    for name, source in config.outputs.items():
        if source not in wires:
            raise ConfigError(f"output {name!r} names {source!r}, which is no stage", where=f"{where}: outputs.{name}",
                              hint=f"stages: {', '.join(config.stages)}")
        pipeline.output(**{name: wires[source]})
    return pipeline


def _validate(text: str, where: str) -> _PipelineConfig:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"this is not YAML: {error}", where=where, hint="see regard run --help for an example") from None
    try:
        return _PipelineConfig.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"this is not a pipeline file: {problems}", where=where,
                          hint="a file has regard: 1, stages (stage, inputs, settings) and outputs") from None


def _ordered(config: _PipelineConfig, where: str) -> list[str]:
    """Stage names so that each comes after its sources; the file's own order otherwise. Raises on a cycle or an unknown source."""
    done: list[str] = []
    path: list[str] = []

    def visit(name: str, wanted_by: str) -> None:
        if name in config.inputs or name in done:
            return
        if name in path:
            raise PipelineError(f"the stages form a cycle: {' -> '.join([*path[path.index(name):], name])}", where=where,
                                hint="a pipeline is a DAG: remove one of these connections")
        if name not in config.stages:
            raise ConfigError(f"stage {wanted_by!r} takes its input from {name!r}, which does not exist",
                              where=f"{where}: stages.{wanted_by}.inputs", hint=f"there are: {', '.join([*config.inputs, *config.stages])}")
        path.append(name)
        for source in config.stages[name].inputs:
            visit(source, name)
        path.pop()
        done.append(name)

    for name in config.stages:
        visit(name, name)
    return done


def _make(name: str, config: _StageConfig, override: Mapping[str, Any], where: str) -> Stage:
    try:
        kind = stage_class(config.stage)
        accepted = kind.setting_names()
        return kind(**{**config.settings, **{key: value for key, value in override.items() if key in accepted}})
    except RegardError as error:
        error.add_note(f"in {where}, stages.{name}")
        raise


def _settings(stage: Stage) -> dict[str, Any]:
    """The stage's settings, if a file can hold them all."""
    for name in stage.setting_names():
        value = getattr(stage, name)
        if callable(getattr(value, "fingerprint", None)):
            raise ConfigError(f"setting {name!r} is an object of class {type(value).__qualname__}, which a file cannot hold",
                              where=f"stage {stage.label!r}", hint="name a model instead, or make this pipeline in Python")
    return stage.settings()


def _registered(stage: Stage) -> str:
    name = stage_name(type(stage))
    if name not in stage_names() or stage_class(name) is not type(stage):
        raise ConfigError(f"{type(stage).__qualname__} is not registered, so a file cannot name it", where=f"stage {stage.label!r}",
                          hint='add it to the entry-point group "regard.stages" of the package that defines it')
    return name
