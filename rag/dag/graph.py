"""A pipeline as a plain graph: what drawing, checking and saving look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """``kind`` is ``"input"``, ``"output"`` or a stage class's name; ``settings`` are the stage's own, ``bodies`` the
    graphs inside it."""

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    bodies: dict[str, Graph] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edge:
    """From a node to a port of another; ``type`` is the name of what the batch holds."""

    source: str
    target: str
    port: str
    type: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in topological order (inputs first, outputs last) and the edges between them."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def layers(self) -> dict[str, int]:
        """For each node the length of the longest path to it: 0 for an input."""
        depth: dict[str, int] = {}
        for node in self.nodes:
            depth[node.name] = max((depth[e.source] + 1 for e in self.into(node.name)), default=0)
        return depth

    def into(self, name: str) -> Iterator[Edge]:
        return (e for e in self.edges if e.target == name)
