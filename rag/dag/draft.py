"""Building a plan, checked where it is built: by a pipeline, and from what a file holds."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Annotated, Any

from pydantic import GetPydanticSchema

from .. import nouns
from ..errors import ConfigError, PipelineError, PortTypeError, RegardError
from ..parts import part
from .function import Function
from .plan import Plan, Ref, StageNode
from .ports import Port, is_type, meets, said, type_name
from .stage import Stage

MOST_STAGES = 200
_KEYS = {"inputs", "stages", "outputs"}


class Draft:
    """A plan in the making; ``where`` is what messages call it."""

    def __init__(self, where: str, plan: Plan | None = None) -> None:
        self.where = where
        self.inputs: dict[str, Any] = dict(plan.inputs) if plan else {}
        self.nodes: dict[str, StageNode] = dict(plan.nodes) if plan else {}
        self.outputs: dict[str, Ref] = dict(plan.outputs) if plan else {}

    def plan(self) -> Plan:
        return Plan(self.inputs, self.nodes, self.outputs)

    def input(self, kind: Any, name: str | None = None) -> Ref:
        """Declare an input. Raises ``PipelineError`` for what is no type."""
        if not is_type(kind):
            raise PipelineError(f"{kind!r:.80} is no type of an input", where=self.where,
                                hint="give a class, such as Query, or list[str]")
        chosen = self._unused(name, getattr(kind, "__name__", "value").lower())
        self.inputs[chosen] = kind
        return Ref(chosen)

    def add(self, stage: Stage, refs: Sequence[Ref], named: Mapping[str, Ref], name: str | None = None) -> tuple[Ref,
                                                                                                                 ...]:
        """Add a stage, fed by ``refs`` in the order of its ports and by ``named`` ones."""
        chosen = self._unused(name, stage.default_name())
        self.nodes[chosen] = StageNode(stage, tuple(self._connected(chosen, stage, refs, named)))
        ports = stage.ports()
        return tuple(Ref(chosen, port.name if ports.bundle else "") for port in ports.outputs)

    def output(self, name: str, ref: Ref) -> None:
        """Name what is given back."""
        if ref.node in self.inputs:
            raise PipelineError(f"output {name!r} is an input handed back", where=self.where,
                                hint="connect a stage's output")
        self.outputs[name] = ref

    def _unused(self, name: str | None, default: str) -> str:
        taken = self.inputs.keys() | self.nodes.keys()
        if name is not None:
            if name in taken:
                raise PipelineError(f"{name!r} is the name of something else in this pipeline", where=self.where,
                                    hint="choose another name")
            return name
        return next(n for n in (default if i == 1 else f"{default}_{i}" for i in range(1, len(taken) + 2))
                    if n not in taken)

    def _connected(self, name: str, stage: Stage, refs: Sequence[Ref], named: Mapping[str, Ref]) -> list[tuple[Ref,
                                                                                                               Port]]:
        kind, wanted = type(stage).__name__, stage.ports().inputs
        signature = said(wanted)
        variadic = next((p for p in wanted if p.variadic), None)
        plain = [p for p in wanted if not p.variadic]
        by_name = {port.name: port for port in plain}
        unknown = [port for port in named if port not in by_name]
        twice = [port.name for port in plain[:len(refs)] if port.name in named]
        if unknown or twice:
            wrong = f"has no port {unknown[0]!r}" if unknown else f"is given port {twice[0]!r} twice"
            raise PipelineError(f"stage {name!r} ({kind}) {wrong}", where=self.where, hint=f"connect ({signature})")
        if len(refs) > len(plain) and not variadic:
            raise PipelineError(f"stage {name!r} ({kind}) takes {len(plain)} inputs, {len(refs)} were connected",
                                where=self.where,
                                hint=f"connect ({signature})")
        missing = [p for p in plain[len(refs):] if not p.optional and p.name not in named]
        if missing or (variadic and len(refs) <= len(plain)):
            absent = ", ".join(repr(p.name) for p in missing or wanted[-1:])
            raise PipelineError(f"port {absent} of stage {name!r} ({kind}) is not connected", where=self.where,
                                hint=f"connect ({signature})")
        places = [*plain, *repeat(variadic, len(refs))] if variadic else plain
        pairs = [(ref, port) for ref, port in zip(refs, places, strict=False) if port is not None]
        pairs += [(ref, by_name[port]) for port, ref in named.items()]
        for ref, port in pairs:
            self._expect_type(ref, port, name, kind, wanted)
        return pairs

    def _expect_type(self, ref: Ref, port: Port, name: str, kind: str, wanted: Sequence[Port]) -> None:
        given = self.plan().type_of(ref)
        if meets(given, port.type):
            return
        source = self.nodes.get(ref.node)
        giver = f"stage {ref.node!r} ({type(source.stage).__name__})" if source else f"input {ref.node!r}"
        output = (ref.output or source.stage.ports().outputs[0].name) if source else ref.node
        fits = [p.name for p in wanted if meets(given, p.type)]
        hint = f"connect something that gives Batch[{type_name(port.type)}]"
        if fits:
            hint = f"it would fit port {fits[0]!r}: check the order of the inputs"
        raise PortTypeError(
            f"output {output!r} of {giver} is Batch[{type_name(given)}], port {port.name!r} of stage {name!r} ({kind}) "
            f"takes Batch[{type_name(port.type)}]", where=self.where, hint=hint)


def as_stage(value: Any, where: str) -> Stage:
    """A function as a stage. Raises ``PipelineError`` for what is neither."""
    if callable(value) and not isinstance(value, type):
        return Function(value)
    hint = "first an object of a subclass of Stage, or a function"
    if isinstance(value, type):
        hint = f"make one: {value.__name__}(...)"
    raise PipelineError(f"{value!r:.80} is no stage", where=where, hint=f"add(stage, *wires): {hint}")


# -- a plan as a setting, and in files -------------------------------------------------


def as_plan(value: Any) -> Plan:
    """``value`` as a plan: a pipeline's, one stage's or function's, or what :meth:`Plan.to_plain` gave. Raises
    ``ConfigError``."""
    if isinstance(value, Plan):
        made = value
    elif hasattr(value, "plan"):
        made = value.plan()
    elif isinstance(value, Mapping):
        made = from_plain(value) if "stages" in value else _alone(part(Stage, value))
    else:
        made = _alone(part(Stage, value) if isinstance(value, str) else value if isinstance(value, Stage)
                      else as_stage(value, "body"))
    if not made.outputs:
        raise ConfigError("the plan has no output", where="body", hint="call p.output(name=wire)")
    return made


Body = Annotated[Plan, GetPydanticSchema(lambda source, handler: _schema())]
"""A setting that is a plan; given as a pipeline, a stage, an annotated function, or as files hold it."""


def _schema() -> Any:
    from pydantic_core import core_schema

    shape = {"pydantic_js_functions": [lambda *_: {"type": "object"}]}
    return core_schema.no_info_plain_validator_function(as_plan, metadata=shape)


def _alone(stage: Stage) -> Plan:
    """A plan of one stage, whose inputs and outputs are its ports."""
    draft = Draft(type(stage).__name__)
    refs = [draft.input(port.type) for port in stage.ports().inputs]
    name = stage.default_name()
    made = draft.add(stage, refs, {}, name if name not in draft.inputs else f"{name}_stage")
    for ref, port in zip(made, stage.ports().outputs, strict=True):
        draft.output(port.name, ref)
    return draft.plan()


def from_plain(data: Mapping[str, Any], where: str = "body") -> Plan:
    """The plan that a file describes. Raises ``ConfigError`` and ``PipelineError`` that name the place in it."""
    unknown = data.keys() - _KEYS
    stages, outputs, inputs = data.get("stages"), data.get("outputs"), data.get("inputs", {"query": "Query"})
    if unknown or not all(isinstance(d, Mapping) and d for d in (stages, outputs, inputs)):
        wrong = "it has inputs, stages and outputs, each a mapping"
        if unknown:
            wrong = f"{min(map(str, unknown))!r} is no part of it"
        raise ConfigError(f"this is no pipeline: {wrong}", where=where, hint="regard init writes an example")
    assert isinstance(stages, Mapping)
    assert isinstance(outputs, Mapping)
    if len(stages) > MOST_STAGES:
        raise ConfigError(f"a pipeline of {len(stages)} stages; at most {MOST_STAGES} are read", where=where,
                          hint="build it in Python")
    draft = Draft(where)
    for name, kind in inputs.items():
        draft.input(_type_of(str(kind), f"{where}: inputs.{name}"), str(name))
    for name in _ordered(inputs, stages, where):
        try:
            _add(draft, name, stages[name], where)
        except RegardError as error:
            error.add_note(f"in {where}, stages.{name}")
            raise
    for name, source in outputs.items():
        draft.output(str(name), _ref(draft, str(source), f"{where}: outputs.{name}", f"output {name!r}"))
    return draft.plan()


def _add(draft: Draft, name: str, data: Any, where: str) -> None:
    settings = {key: value for key, value in data.items() if key != "inputs"}
    sources = _sources(data)
    place = f"{where}: stages.{name}.inputs"
    refs = [_ref(draft, source, place, f"stage {name!r}") for _, source in sources]
    named = {port: ref for (port, _), ref in zip(sources, refs, strict=True) if port}
    draft.add(part(Stage, settings), [] if named else refs, named, name)


def _sources(data: Any) -> list[tuple[str, str]]:
    """(port, source) of a stage in a file; port is empty where they are listed by position."""
    listed = data.get("inputs") if isinstance(data, Mapping) else None
    if isinstance(listed, Mapping):
        return [(str(port), str(source)) for port, source in listed.items()]
    return [("", str(source)) for source in listed] if isinstance(listed, list | tuple) else []


def _ref(draft: Draft, text: str, where: str, wanted_by: str) -> Ref:
    name, _, output = (text, "", "") if text in draft.inputs or text in draft.nodes else text.partition(".")
    known = [*draft.inputs, *draft.nodes]
    if name not in known:
        raise ConfigError(f"{wanted_by} takes its input from {text!r}, which does not exist", where=where,
                          hint=f"there are: {', '.join(known)}")
    ports = draft.nodes[name].stage.ports() if name in draft.nodes else None
    outputs = [port.name for port in ports.outputs] if ports and ports.bundle else []
    if (output or outputs) and output not in outputs:
        raise ConfigError(f"{wanted_by} names {text!r}, and {name!r} gives {', '.join(outputs) or 'one value'}",
                          where=where,
                          hint=f"write {name}.{outputs[0]}" if outputs else f"write {name}")
    return Ref(name, output)


def _ordered(inputs: Mapping[str, Any], stages: Mapping[str, Any], where: str) -> list[str]:
    """Stage names so that each comes after its sources; the file's own order otherwise. Raises on a cycle or an unknown
    source."""
    done: dict[str, None] = {}
    path: list[str] = []

    def visit(name: str, wanted_by: str) -> None:
        if name not in stages and name.partition(".")[0] in stages:
            name = name.partition(".")[0]
        if name in inputs or name in done:
            return
        if name in path:
            raise PipelineError(f"the stages form a cycle: {' -> '.join([*path[path.index(name):], name])}",
                                where=where,
                                hint="a pipeline is a DAG: remove one of these connections")
        if name not in stages:
            raise ConfigError(f"stage {wanted_by!r} takes its input from {name!r}, which does not exist",
                              where=f"{where}: stages.{wanted_by}.inputs",
                              hint=f"there are: {', '.join([*inputs, *stages])}")
        if not isinstance(stages[name], Mapping) or not _sources(stages[name]):
            raise ConfigError(f"stage {name!r} is no mapping with part, inputs and settings",
                              where=f"{where}: stages.{name}",
                              hint="write it like bm25: {part: BM25, inputs: [query], k: 100}")
        path.append(name)
        for _, source in _sources(stages[name]):
            visit(source, name)
        path.pop()
        done[name] = None

    for name in stages:
        visit(str(name), str(name))
    return list(done)


_NOUNS = ("Query", "QueryVector", "Ranking", "Answer", "Document", "Passage", "State", "Verdict", "Abstention", "Group")
_PLAIN = ("str", "int", "float", "bool", "list", "dict", "tuple")
_TYPES: dict[str, Any] = {**{name: getattr(nouns, name) for name in _NOUNS},
                          **{name: getattr(builtins, name) for name in _PLAIN}, "Any": Any}


def _type_of(text: str, where: str) -> Any:
    """The type that ``type_name`` writes so: a noun, a plain type, or a generic of them."""
    def read(node: ast.expr) -> Any:
        match node:
            case ast.Name(name) if name in _TYPES:
                return _TYPES[name]
            case ast.Subscript(ast.Name(name), ast.Tuple(elements)) if name in _TYPES:
                return _TYPES[name][tuple(map(read, elements))]
            case ast.Subscript(ast.Name(name), element) if name in _TYPES:
                return _TYPES[name][read(element)]
            case ast.BinOp(left, ast.BitOr(), right):
                return read(left) | read(right)
            case ast.Constant(value) if value is None or value is ...:
                return value
        raise ValueError

    try:
        return read(ast.parse(text[:200], mode="eval").body)
    except (SyntaxError, ValueError, TypeError):
        raise ConfigError(f"an input has the type {text!r:.80}", where=where,
                          hint=f"types: {', '.join(_NOUNS)}[...], str, list[...], Any") from None


