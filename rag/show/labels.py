"""What is said in few words about a pipeline's nodes and edges and about what a stage did."""

from __future__ import annotations

from ..dag.graph import Edge, Graph, Node
from ..dag.trace import StageTrace
from ..markup import amount, one_line, setting, shorten_middle

_TELLING = ("model", "lm", "index", "k", "depth", "method", "encoder", "view", "budget", "max_new_tokens", "weights")


def node_label(node: Node) -> str:
    """What a node is called in a drawing; a graph names output ``x`` ``output:x``, so that it cannot meet a stage's
    name."""
    return one_line(node.name.removeprefix("output:") if node.kind == "output" else node.name) or "(no name)"


def edge_label(edge: Edge, graph: Graph) -> str:
    """The type of what flows, after the port's name where the target has several ports."""
    ports = {other.port for other in graph.into(edge.target)}
    return one_line(f"{edge.port}: {edge.type}" if len(ports) > 1 else edge.type)


def main_settings(node: Node, limit: int = 3) -> list[str]:
    """The ``name=value`` of the settings that tell most about a stage."""
    told = {name: value for name, value in node.settings.items() if value not in (None, "", [], {})}
    names = sorted(told, key=lambda name: _TELLING.index(name) if name in _TELLING else len(_TELLING))
    return [f"{one_line(name)}={shorten_middle(setting(told[name]), 24)}" for name in names[:limit]]


def passages(entry: StageTrace) -> str:
    """``1,000 → 50 passages``; nothing for a stage that neither takes nor gives rankings."""
    taken, given = amount(entry.candidates_in), amount(entry.candidates_out)
    if entry.candidates_in and entry.candidates_out:
        return f"{taken} → {given} passages"
    if entry.candidates_in:
        return f"{taken} passages in"
    return f"{given} passages out" if entry.candidates_out else ""


def tokens(entry: StageTrace) -> str:
    """``1,203 → 45 tokens``, or only those in where none came out; nothing where none were counted."""
    if not entry.tokens_in and not entry.tokens_out:
        return ""
    given = f" → {amount(entry.tokens_out)}" if entry.tokens_out else ""
    return f"{amount(entry.tokens_in)}{given} tokens"


def cached(entry: StageTrace) -> str:
    """``cached``, ``3/8 cached`` for a batch, nothing without a hit."""
    if not entry.cache_hits:
        return ""
    return "cached" if entry.cache_hits >= entry.queries else f"{entry.cache_hits}/{entry.queries} cached"
