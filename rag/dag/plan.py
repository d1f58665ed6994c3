"""A plan: a DAG of stages as a value. A pipeline runs one, a control stage holds one, files and drawings are made from
one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError
from ..parts import Part, plain, text_of
from ..parts.identity import hashed
from .graph import Edge, Graph, Node
from .ports import Port, Ports, type_name

if TYPE_CHECKING:
    from .stage import Stage


class Ref(NamedTuple):
    """What a node gives: an input's value, a stage's only output, or the one of several that is called ``output``."""

    node: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.node}.{self.output}" if self.output else self.node


@dataclass(frozen=True, slots=True)
class StageNode:
    """A stage in the DAG, and what feeds each of its ports."""

    stage: Stage
    sources: tuple[tuple[Ref, Port], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """``inputs``: name to type. ``nodes``: stages by name, each after what feeds it. ``outputs``: name to what is given
    back.

    A node's name decides nothing: it is in no fingerprint.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, StageNode] = field(default_factory=dict)
    outputs: Mapping[str, Ref] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("inputs", "nodes", "outputs"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan, (dict(self.inputs), dict(self.nodes), dict(self.outputs))

    def type_of(self, ref: Ref) -> Any:
        """What a batch at ``ref`` holds."""
        if ref.node in self.inputs:
            return self.inputs[ref.node]
        outputs = self.nodes[ref.node].stage.ports().outputs
        return next(port.type for port in outputs if port.name == ref.output or not ref.output)

    def ports(self) -> Ports:
        """The whole DAG as one stage."""
        return Ports(tuple(Port(name, kind) for name, kind in self.inputs.items()),
                     tuple(Port(name, self.type_of(ref)) for name, ref in self.outputs.items()))

    def stages(self) -> dict[str, Stage]:
        """The stages by name: how what holds a plan is walked through."""
        return {name: node.stage for name, node in self.nodes.items()}

    def above(self, name: str) -> dict[str, Stage]:
        """The stages that ``name`` gets something from, nearest first, directly or through others."""
        found: dict[str, Stage] = {}
        waiting = [ref.node for ref, _ in self.nodes[name].sources]
        while waiting:
            source = waiting.pop(0)
            if source in self.nodes and source not in found:
                found[source] = self.nodes[source].stage
                waiting += [ref.node for ref, _ in self.nodes[source].sources]
        return found

    def needed(self) -> list[str]:
        """The stages that the outputs hang on, in order."""
        found: set[str] = set()
        waiting = [ref.node for ref in self.outputs.values()]
        while waiting:
            name = waiting.pop()
            if name in self.nodes and name not in found:
                found.add(name)
                waiting += [ref.node for ref, _ in self.nodes[name].sources]
        return [name for name in self.nodes if name in found]

    def fingerprint(self) -> str:
        """A hash of what decides its outputs: the stages and how they are connected."""
        keys = {name: f"input {i}" for i, name in enumerate(self.inputs)}
        for name in self.needed():
            node = self.nodes[name]
            sources = [[port.name, keys[ref.node], ref.output] for ref, port in node.sources]
            keys[name] = hashed([node.stage.fingerprint(), sources])
        return hashed([list(self.inputs), {name: [keys[ref.node], ref.output] for name, ref in self.outputs.items()}])

    def graph(self) -> Graph:
        """Nodes and edges, for drawing."""
        nodes = [Node(name, "input") for name in self.inputs]
        nodes += [Node(name, type(node.stage).__name__, _settings(node.stage),
                       {label: plan.graph() for label, plan in bodies(node.stage)})
                       for name, node in self.nodes.items()]
        nodes += [Node(f"output:{name}", "output") for name in self.outputs]
        edges = [Edge(ref.node, name, port.name, type_name(self.type_of(ref)))
                 for name, node in self.nodes.items() for ref, port in node.sources]
        edges += [Edge(ref.node, f"output:{name}", name, type_name(self.type_of(ref)))
                  for name, ref in self.outputs.items()]
        return Graph(tuple(nodes), tuple(edges))

    def to_plain(self) -> dict[str, Any]:
        """As files hold it. Raises ``ConfigError`` for what no file can hold."""
        return {
            "inputs": {name: type_name(kind) for name, kind in self.inputs.items()},
            "stages": {name: _plain_node(name, node) for name, node in self.nodes.items()},
            "outputs": {name: str(ref) for name, ref in self.outputs.items()},
        }


def _plain_node(name: str, node: StageNode) -> dict[str, Any]:
    sources: Any = [str(ref) for ref, _ in node.sources]
    ports = [port.name for _, port in node.sources]
    wanted = [port for port in node.stage.ports().inputs if not port.variadic]
    if ports[:len(wanted)] != [port.name for port in wanted[:len(ports)]]:  # a gap: an optional port is left out
        sources = dict(zip(ports, sources, strict=True))
    try:
        settings = plain(node.stage)
    except ConfigError as error:
        raise ConfigError(error.what, where=f"stage {name!r}", hint=error.hint) from None
    return {"part": settings.pop("part"), "inputs": sources, **settings}


def _settings(stage: Stage) -> dict[str, Any]:
    """A stage's settings for people: plans stand in a frame of their own."""
    return {name: _shown(value) for name, value in stage.settings().items() if not any(_plans(name, value))}


def _shown(value: Any) -> Any:
    try:
        if isinstance(value, Part):
            return text_of(value)
        return plain(value)
    except ConfigError:
        return getattr(value, "__qualname__", repr(value))


def bodies(stage: Stage) -> Iterator[tuple[str, Plan]]:
    """The plans that a stage holds, each with its label: the setting's name, and its own in a mapping or a tuple."""
    for name, value in stage.settings().items():
        yield from _plans(name, value)


def _plans(label: str, value: Any) -> Iterator[tuple[str, Plan]]:
    if isinstance(value, Plan):
        yield label, value
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value, 1) if isinstance(value, tuple) else ()
    for name, item in items:
        yield from _plans(f"{label}: {name}", item)
