"""Pipelines as YAML. A file names parts and never imports code.

    regard: 2
    name: default
    inputs: {query: Query}
    stages:
      bm25: {part: BM25, inputs: [query], index: my-index, k: 100}
    outputs: {passages: bm25}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, RegardError
from ..files import local_path, write_text
from ..parts import Part, nested
from ..parts.identity import identity
from ..parts.schema import definitions
from ..parts.spec import named
from ..plain import MOST_YAML, parse_yaml, read_text
from ..trust import FileOrigin, KeyRule, key_rules
from .draft import from_plain
from .plan import Plan
from .stage import Stage

FORMAT = 2
_OLDER = ("write regard: 2, and for each stage {part: NAME, inputs: [...], SETTING: ...}: part for stage, and the "
          "settings beside it; "
          "regard init writes an example")


class _Dumper(yaml.SafeDumper):
    """Line breaks are written as such: ``"\n\n"``."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar(
    "tag:yaml.org,2002:str", text, style='"' if "\n" in text else None))


def dump(plan: Plan, name: str) -> str:
    """The plan as YAML text, which is read back to see that it gives the same plan.

    Raises ``ConfigError`` for a part that a file cannot name, and for a setting that it would give back as something
    else.
    """
    try:
        text: str = yaml.dump({"regard": FORMAT, "name": name, **plan.to_plain()}, Dumper=_Dumper, sort_keys=False,
                              allow_unicode=True, width=120, default_flow_style=None)
    except yaml.YAMLError as error:
        raise ConfigError(f"a setting is no plain value: {error}", where=name,
                          hint="name things instead of passing objects; a file holds text, numbers, lists and "
                               "mappings") from None
    _expect_same(plan, parse(text, {}, "what a file would hold")[1])
    return text


def _expect_same(plan: Plan, again: Plan) -> None:
    """Raise ``ConfigError`` naming the setting that did not come back as it was."""
    for name, stage in plan.stages().items():
        after = again.nodes[name].stage
        for setting, value in stage.settings().items():
            before, read = _known(value), _known(getattr(after, setting))
            if before != read:
                raise ConfigError(f"a file cannot hold the setting {setting!r}, {_shown(before)}: it would be read "
                                  f"back as "
                                  f"{_shown(read)}", where=f"stage {name!r}",
                                  hint="use a value of the classes that Regard knows by name, or build this pipeline "
                                       "in Python")


def _known(value: Any) -> Any:
    return value if isinstance(value, Part) else value.to_plain() if isinstance(value, Plan) else identity(value)


def _shown(identity: Any) -> str:
    return f"a {identity['class']}" if isinstance(identity, dict) and "class" in identity else f"{identity!r:.80}"


def save(plan: Plan, name: str, path: str | Path) -> None:
    """Write ``dump`` to ``path``."""
    text = dump(plan, name)  # first, so that a refusal leaves no half-written file
    write_text(path, text)


def load(path: str | Path, settings: Mapping[str, Any] | None = None, allow_keys: Sequence[str] = ()) -> tuple[str,
                                                                                                               Plan]:
    """Read a file: the pipeline's name and plan. ``settings`` replace the setting of that name in every stage that has
    it.

    A file may be anybody's: its stages know where they are from, and may send only those keys to a server that the user
    allows it (``allow_keys``: ``HOST=VARIABLE``; and what ``rag.trust`` lists).
    """
    rules = key_rules(allow_keys, "allow_keys")
    return parse(read_text(local_path(path, "pipeline file"), MOST_YAML), settings or {}, str(path), rules)


def parse(text: str, settings: Mapping[str, Any], where: str, rules: tuple[KeyRule, ...] = ()) -> tuple[str, Plan]:
    """The pipeline that ``text`` describes. Errors name ``where`` and the place in the file."""
    data = parse_yaml(text, where, "regard init writes an example")
    if not isinstance(data, dict) or "regard" not in data:
        raise ConfigError("this is not a pipeline file", where=where,
                          hint="a file has regard: 2, stages and outputs; regard init writes one")
    if data["regard"] != FORMAT or _is_older(data):
        raise ConfigError(f"this file is of another form (regard: {data['regard']!r:.20})", where=where, hint=_OLDER)
    name = str(data.get("name", "pipeline"))
    plan = from_plain(_overridden({key: value for key, value in data.items() if key not in ("regard", "name")},
                                  settings), where)
    origin = FileOrigin(where, rules, frozenset(settings))
    for _, one in nested(plan):
        if isinstance(one, Stage):
            object.__setattr__(one, "origin", origin)  # made here, and nobody's yet
    return name, plan


def _is_older(data: Mapping[str, Any]) -> bool:
    stages = data.get("stages")
    listed = stages.values() if isinstance(stages, dict) else ()
    return any(isinstance(stage, dict) and "stage" in stage and "part" not in stage for stage in listed)


def _overridden(data: Any, settings: Mapping[str, Any]) -> Any:
    """``data`` with ``settings`` in every stage that has them."""
    if not settings or not isinstance(data, dict | list):
        return data
    if isinstance(data, list):
        return [_overridden(item, settings) for item in data]
    found = {name: _overridden(item, settings) for name, item in data.items()}
    return {**found, **{name: value for name, value in settings.items() if name in _settings_of(data.get("part"))}}


def _settings_of(name: Any) -> list[str]:
    try:
        return named(Stage, name).setting_names() if isinstance(name, str) else []
    except RegardError:
        return []  # whoever makes it says so


def schema() -> dict[str, Any]:
    """The JSON schema of pipeline files, from the tables: editors complete and check them with it."""
    kinds = definitions(Stage)
    kinds["node"] = {"anyOf": [_connected(one) for one in kinds["regard.stages"]["anyOf"] if "properties" in one]}
    names = {"type": "object", "additionalProperties": {"type": "string"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Regard pipeline", "type": "object",
        "required": ["regard", "stages", "outputs"], "additionalProperties": False, "$defs": kinds,
        "properties": {"regard": {"const": FORMAT}, "name": {"type": "string"}, "inputs": names, "outputs": names,
                       "stages": {"type": "object", "additionalProperties": {"$ref": "#/$defs/node"}}},
    }


def _connected(one: dict[str, Any]) -> dict[str, Any]:
    """A stage's schema with what it is connected to."""
    inputs = {"anyOf": [{"type": "array", "items": {"type": "string"}},
                        {"type": "object", "additionalProperties": {"type": "string"}}]}
    return {**one, "properties": {**one["properties"], "inputs": inputs}, "required": ["part", "inputs"]}


