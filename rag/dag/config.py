"""Pipelines as YAML. A file names stages by registry name and never imports code.

    regard: 1
    name: default
    inputs: {query: Query}
    stages:
      bm25: {stage: BM25, inputs: [query], settings: {index: my-index, k: 100}}
    outputs: {passages: bm25}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import nouns as documents
from ..errors import ConfigError, PipelineError, RegardError
from ..parts import Part
from ..paths import local_path, write_text
from ..plain import MOST_YAML, parse_yaml, read_text
from ..tables import table
from ..trust import FileOrigin, KeyRule, key_rules
from .pipeline import Pipeline, Wire
from .ports import type_name
from .stage import Stage, stage_name

MOST_STAGES = 200
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
    stages: Annotated[dict[str, _StageConfig], Field(min_length=1, max_length=MOST_STAGES)]
    outputs: Annotated[dict[str, str], Field(min_length=1)]


def dump(pipeline: Pipeline) -> str:
    """The pipeline as YAML text, which is read back to see that it gives the same pipeline.

    Raises ``ConfigError`` for a stage class that is not registered, for a setting that a file would give back as something else (an object
    of a subclass, an encoder object), and for an input of a type that a file cannot name.
    """
    for name, node in pipeline.nodes.items():
        _expect_no_objects(name, node.stage)
    config = {
        "regard": 1,
        "name": pipeline.name,
        "inputs": {name: type_name(kind) for name, kind in pipeline.inputs.items()},
        "stages": {
            name: {"stage": _registered(node.stage), "inputs": [src for src, _ in node.sources], "settings": node.stage.settings()}
            for name, node in pipeline.nodes.items()
        },
        "outputs": dict(pipeline.outputs),
    }
    try:
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120)
    except yaml.YAMLError as error:
        raise ConfigError(f"a setting is no plain value: {error}", where=pipeline.name,
                          hint="name things instead of passing objects; a file holds text, numbers, lists and mappings") from None
    _expect_same(pipeline, parse(text, {}, "what a file would hold"))
    return text


def _expect_no_objects(name: str, stage: Stage) -> None:
    for setting in stage.setting_names():
        value = getattr(stage, setting)
        if callable(getattr(value, "fingerprint", None)) and not isinstance(value, Part):
            raise ConfigError(f"a file cannot hold the setting {setting!r}, an object of class {type(value).__qualname__}",
                              where=f"stage {name!r}", hint="name a model instead, or build this pipeline in Python")


def _expect_same(pipeline: Pipeline, again: Pipeline) -> None:
    """Raise ``ConfigError`` naming the setting that did not come back as it was."""
    for name, node in pipeline.nodes.items():
        before, after = node.stage.identity(), again.nodes[name].stage.identity()
        for setting in before:
            if before[setting] != after[setting]:
                raise ConfigError(f"a file cannot hold the setting {setting!r}, {_shown(before[setting])}: it would be read back as "
                                  f"{_shown(after[setting])}", where=f"stage {name!r}",
                                  hint="use a value of the classes that Regard knows by name, or build this pipeline in Python")


def _shown(identity: Any) -> str:
    return f"a {identity['class']}" if isinstance(identity, dict) and "class" in identity else f"{identity!r:.80}"


def save(pipeline: Pipeline, path: str | Path) -> None:
    """Write ``dump`` to ``path``."""
    text = dump(pipeline)  # first, so that a refusal leaves no half-written file
    write_text(path, text)


def load(path: str | Path, settings: Mapping[str, Any] | None = None, allow_keys: Sequence[str] = ()) -> Pipeline:
    """Read a file; ``settings`` replace the setting of that name in every stage that has it.

    A file may be anybody's: its stages know where they are from, and may send only those keys to a server that the user allows it
    (``allow_keys``: ``HOST=VARIABLE``; and what ``rag.trust`` lists).
    """
    rules = key_rules(allow_keys, "allow_keys")
    return parse(read_text(local_path(path, "pipeline file"), MOST_YAML), settings or {}, str(path), rules)


def parse(text: str, settings: Mapping[str, Any], where: str, rules: tuple[KeyRule, ...] = ()) -> Pipeline:
    """Build the pipeline that ``text`` describes. Errors name ``where`` and the place in the file."""
    origin = FileOrigin(where, rules, frozenset(settings))
    config = _validate(text, where)
    pipeline = Pipeline(config.name)
    wires: dict[str, Wire[Any]] = {}
    for name, kind in config.inputs.items():
        if kind not in INPUT_TYPES:
            raise ConfigError(f"input {name!r} has type {kind!r}", where=where, hint=f"types: {', '.join(INPUT_TYPES)}")
        wires[name] = pipeline.input(INPUT_TYPES[kind], name)
    for name in _ordered(config, where):
        stage: Any = _make(name, config.stages[name], settings, where)
        stage.origin = origin
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
    data = parse_yaml(text, where, "regard init writes an example")
    try:
        return _PipelineConfig.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"this is not a pipeline file: {problems}", where=where,
                          hint="a file has regard: 1, stages (stage, inputs, settings) and outputs; regard init writes one") from None


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
        kind: type[Stage] = table("regard.stages")[config.stage]
        accepted = kind.setting_names()
        return kind(**{**config.settings, **{key: value for key, value in override.items() if key in accepted}})
    except RegardError as error:
        error.add_note(f"in {where}, stages.{name}")
        raise


def _registered(stage: Stage) -> str:
    name = stage_name(type(stage))
    if name not in table("regard.stages").names() or table("regard.stages")[name] is not type(stage):
        raise ConfigError(f"{type(stage).__qualname__} is not registered, so a file cannot name it", where=f"stage {stage.label!r}",
                          hint='add it to the entry-point group "regard.stages" of the package that defines it')
    return name
