"""Pipelines as pictures: Mermaid text, and an SVG that needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..dag.graph import Edge, Graph, Node
from ..dag.trace import StageTrace, Trace
from ..markup import duration, escape, one_line, setting, shorten, shorten_middle, size, text_width, visible
from .labels import cached, edge_label, main_settings, node_label, passages, tokens
from .layout import ARROW, Box, Link, Placement, Rectangle, Stretch, lay_out
from .style import DRAWING

_PAGE_WIDTH = 1000.0  # pixels: a drawing that is wider left to right goes top to bottom instead
_LEFT_TO_RIGHT_LAYERS = 5  # the same choice for Mermaid, which lays out by itself
_ENDS = ("input", "output")


# -- Mermaid ------------------------------------------------------------------------------


def to_mermaid(graph: Graph) -> str:
    """A Mermaid flow chart. Names are quoted and escaped, so that any name makes a valid chart. What a stage holds is a
    subgraph."""
    layers = 1 + max(graph.layers().values(), default=0)
    direction = "LR" if layers <= _LEFT_TO_RIGHT_LAYERS else "TD"
    return "\n".join([f"flowchart {direction}", *_chart(graph, "n", "    ")]) + "\n"


def _chart(graph: Graph, prefix: str, indent: str) -> Iterator[str]:
    ids = {node.name: f"{prefix}{i}" for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        label, name = _mermaid(node_label(node)), ids[node.name]
        lines = [f"<b>{label}</b>", _mermaid(one_line(node.kind)), *map(_mermaid, main_settings(node))]
        if node.kind in _ENDS:
            yield f'{indent}{name}(["{label}"])'
        elif not node.bodies:
            yield f'{indent}{name}["{"<br/>".join(lines)}"]'
        else:
            yield f'{indent}subgraph {name}["{"<br/>".join(lines)}"]'
            for i, (called, body) in enumerate(node.bodies.items()):
                yield f'{indent}    subgraph {name}b{i}["{_mermaid(one_line(called))}"]'
                yield from _chart(body, f"{name}b{i}n", indent + "        ")
                yield f"{indent}    end"
            yield f"{indent}end"
    yield from (f'{indent}{ids[e.source]} -->|"{_mermaid(edge_label(e, graph))}"| {ids[e.target]}' for e in graph.edges)


def _mermaid(text: str) -> str:
    """ASCII punctuation as Mermaid's numeric entities: some of it would end the label or start markup in it."""
    return "".join(c if not c.isascii() or c.isalnum() or c in " _-.,=" else f"#{ord(c)};" for c in visible(text))


# -- SVG ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of text in a box: its style class, its font size in pixels."""

    text: str
    style: str
    font: float

    @property
    def width(self) -> float:
        return text_width(self.text, self.font) * {"name": 1.15, "took": 1.06}.get(self.style, 1.0)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A drawing inside a stage's box: what it is called, its elements, and its size."""

    name: str
    elements: tuple[str, ...]
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Card:
    """What is drawn in a node's box; ``share`` is the part of the run's time that the stage took, ``frames`` the plans
    that it holds."""

    node: Node
    lines: tuple[_Line, ...]
    frames: tuple[_Frame, ...] = ()
    entry: StageTrace | None = None
    share: float | None = None
    slowest: bool = False

    @property
    def badge(self) -> str:
        return cached(self.entry) if self.entry else ""

    @property
    def pill(self) -> bool:
        return self.node.kind in _ENDS

    @property
    def width(self) -> float:
        badge = text_width(self.badge, 9) + 24 if self.badge else 0.0
        framed = (frame.width + 2 * _INSET for frame in self.frames)
        return max(66.0, self.lines[0].width + badge + 28, *(line.width + 28 for line in self.lines), *framed)

    @property
    def height(self) -> float:
        framed = sum(frame.height + _FRAME_TITLE + _INSET for frame in self.frames)
        return 30.0 if self.pill else 18 + sum(line.font + 4.5 for line in self.lines) + (7 if self.share is not None
                                                                                          else 0) + framed


_MARGIN = 20.0
_LABEL_FONT = 10.5
_CARD_WIDTH = 200.0
_INSET = 12.0
_FRAME_TITLE = 16.0


def to_svg(graph: Graph, trace: Trace | None = None) -> str:
    """A self-contained SVG: no script, no font, no address. With ``trace``, every stage shows what it took in that run;
    what a stage holds is drawn in a frame inside it."""
    drawn = _frame("", graph, trace, "")
    footer = _footer(trace)
    width = max(drawn.width, text_width(footer, 11) + 2 * _MARGIN)
    height = drawn.height + (18 if footer else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rg-dag" role="img" aria-label="{escape(_summary(graph))}" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:100%;height:auto">',
        f"<style>{DRAWING}</style>",
        f'<rect class="canvas frame" width="{width:.0f}" height="{height:.0f}" rx="10"/>',
        *drawn.elements,
    ]
    if footer:
        parts.append(f'<text class="small" x="{_MARGIN:.0f}" y="{height - 12:.0f}">{escape(footer)}</text>')
    return "\n".join([*parts, "</svg>"])


def _frame(name: str, graph: Graph, trace: Trace | None, path: str) -> _Frame:
    """A graph drawn; ``path`` is that of the stage that holds it, with a slash."""
    cards = {node.name: card for node, card in zip(graph.nodes, _cards(graph, trace, path), strict=True)}
    figure = _figure(graph, cards)
    routes = list(zip(graph.edges, figure.layout.routes, strict=True))
    elements = (
        *(figure.link(edge, route) for edge, route in routes),
        *(figure.label(edge, edge_label(edge, graph), route) for edge, route in routes),
        *(_draw(cards[node], *figure.rectangle(place)) for node, place in figure.layout.places.items()),
    )
    return _Frame(name, elements, figure.width, figure.height)


@dataclass(frozen=True, slots=True)
class _Figure:
    """A layout on the page: along is y when ``turned``, else x."""

    layout: Placement
    turned: bool

    @property
    def width(self) -> float:
        return (self.layout.breadth if self.turned else self.layout.length) + 2 * _MARGIN

    @property
    def height(self) -> float:
        return (self.layout.length if self.turned else self.layout.breadth) + 2 * _MARGIN

    def centre(self, along: float, across: float) -> tuple[float, float]:
        return (across + _MARGIN, along + _MARGIN) if self.turned else (along + _MARGIN, across + _MARGIN)

    def point(self, along: float, across: float) -> str:
        x, y = self.centre(along, across)
        return f"{x:.1f},{y:.1f}"

    def rectangle(self, place: Rectangle) -> tuple[float, float, float, float]:
        x, y, width, height = place.along, place.across, place.length, place.breadth
        if self.turned:
            x, y, width, height = y, x, height, width
        return x + _MARGIN, y + _MARGIN, width, height

    def link(self, edge: Edge, route: Sequence[Stretch]) -> str:
        start, last = route[0], route[-1]
        path = [f"M{self.point(start.begin, start.across)}", f"L{self.point(start.end, start.across)}"]
        for before, after in pairwise(route):
            middle = (before.end + after.begin) / 2
            bends = ((middle, before.across), (middle, after.across), (after.begin, after.across))
            path.append(f"C{' '.join(self.point(*bend) for bend in bends)}")
            path.append(f"L{self.point(after.end - (ARROW - 2 if after is last else 0), after.across)}")
        corners = ((last.end, last.across), (last.end - ARROW, last.across - 4), (last.end - ARROW, last.across + 4))
        head = " ".join(self.point(*corner) for corner in corners)
        return (f'<g class="{_colour(edge.type)}"><path class="wire" d="{" ".join(path)}"/>'
                f'<polygon class="head" points="{head}"/></g>')

    def label(self, edge: Edge, text: str, route: Sequence[Stretch]) -> str:
        width = text_width(text, _LABEL_FONT) + 10
        x, y = self.centre(route[-1].end - ARROW - 2 - (16 if self.turned else width) / 2, route[-1].across)
        return (f'<g class="{_colour(edge.type)}"><rect class="canvas" x="{x - width / 2:.1f}" y="{y - 8:.1f}" '
                f'width="{width:.1f}" '
                f'height="16"/><text class="type" text-anchor="middle" x="{x:.1f}" '
                f'y="{y + 3.7:.1f}">{escape(text)}</text></g>')


def _figure(graph: Graph, cards: Mapping[str, _Card]) -> _Figure:
    """Left to right where that fits a page's width, else the narrower of the two ways."""
    flat = _Figure(_lay_out(graph, cards, turned=False), turned=False)
    if flat.width <= _PAGE_WIDTH:
        return flat
    turned = _Figure(_lay_out(graph, cards, turned=True), turned=True)
    return min(flat, turned, key=lambda figure: figure.width)


def _lay_out(graph: Graph, cards: Mapping[str, _Card], turned: bool) -> Placement:
    layers = graph.layers()
    boxes = {
        name: Box(layers[name], card.height, card.width, stretch=False) if turned
        else Box(layers[name], card.width, card.height, stretch=not card.pill)
        for name, card in cards.items()
    }
    links = []
    for edge in graph.edges:
        width = text_width(edge_label(edge, graph), _LABEL_FONT) + 10
        links.append(Link(edge.source, edge.target, 16, width + 6) if turned
                     else Link(edge.source, edge.target, width, 19))
    return lay_out(boxes, links, spacing=22 if turned else 18)


def _colour(kind: str) -> str:
    return kind.lower() if kind in ("Query", "Ranking", "Answer") else "other"


def _cards(graph: Graph, trace: Trace | None, path: str) -> Iterable[_Card]:
    """``path`` is a regular expression for what stands before the stages' names in the trace."""
    entries = {node.name: _entry(trace, path + re.escape(node.name)) for node in graph.nodes}
    times = [entry.seconds for entry in entries.values() if entry is not None]
    slowest = max(times, default=0.0) if len(times) > 1 else float("inf")
    for node in graph.nodes:
        name, entry = _fitted(node_label(node), "name", 13), entries[node.name]
        frames = tuple(_frame(one_line(called), body, trace, f"{path}{re.escape(node.name)}/{_under(called)}")
                       for called, body in node.bodies.items())
        if node.kind in _ENDS:
            yield _Card(node, (name,))
        elif entry is None:
            yield _Card(node, (name, *_about(node)), frames)
        else:
            share = min(1.0, entry.seconds / (trace.seconds if trace and trace.seconds else sum(times) or 1.0))
            yield _Card(node, (name, *_about(node), *_took(entry)), frames, entry, share, entry.seconds == slowest > 0)


def _under(body: str) -> str:
    """What may stand before the names of a body's stages: the number of a hop, and the body's label."""
    return rf"(?:\d+/)?(?:{re.escape(body.rpartition(': ')[2])}/)?"


def _entry(trace: Trace | None, path: str) -> StageTrace | None:
    """What the stage took, over all hops."""
    found = [entry for entry in (trace.stages if trace else ()) if re.fullmatch(path, entry.stage)]
    if len(found) < 2:
        return found[0] if found else None
    added = ("queries", "seconds", "open_seconds", "candidates_in", "candidates_out", "tokens_in", "tokens_out",
             "cache_hits")
    return replace(found[0], peak_memory=max(entry.peak_memory for entry in found),
                   **{name: sum(getattr(entry, name) for entry in found) for name in added})


def _about(node: Node) -> list[_Line]:
    kind = [] if one_line(node.kind) == node_label(node) else [_fitted(one_line(node.kind), "kind", 11)]
    lines: list[str] = []
    for text in main_settings(node):
        joined = f"{lines[-1]} · {text}" if lines else text
        if lines and text_width(joined, 10.5) <= _CARD_WIDTH:
            lines[-1] = joined
        else:
            lines.append(text)
    return kind + [_fitted(line, "small", 10.5) for line in lines]


def _took(entry: StageTrace) -> list[_Line]:
    time = duration(entry.seconds)
    found = passages(entry)
    lines = [f"{time} · {found}" if found else time]
    if entry.tokens_in or entry.tokens_out:
        lines.append(tokens(entry))
    return [_fitted(line, "took", 11) for line in lines]


def _fitted(text: str, style: str, font: float) -> _Line:
    limit = min(len(text), 60)
    while limit > 6 and text_width(shorten_middle(text, limit), font) > _CARD_WIDTH:
        limit -= 1
    return _Line(shorten_middle(text, limit), style, font)


def _draw(card: _Card, x: float, y: float, width: float, height: float) -> str:
    style = "end" if card.pill else "stage slowest" if card.slowest else "stage"
    radius = height / 2 if card.pill and height < 40 else 15 if card.pill else 8
    parts = [f'<g><title>{escape(_tooltip(card))}</title><rect class="{style}" x="{x:.1f}" y="{y:.1f}" '
             f'width="{width:.1f}" '
             f'height="{height:.1f}" rx="{radius:g}"/>']
    if card.pill:
        parts.append(f'<text class="name" text-anchor="middle" x="{x + width / 2:.1f}" y="{y + height / 2 + 4.5:.1f}">'
                     f"{escape(card.lines[0].text)}</text>")
        return "".join([*parts, "</g>"])
    top = y + (height - card.height) / 2
    baseline = top + 9
    for line in card.lines:
        baseline += line.font + 4.5
        parts.append(f'<text class="{line.style}{" hot" if card.slowest and line.style == "took" else ""}" '
                     f'x="{x + 14:.1f}" '
                     f'y="{baseline - 4.5:.1f}">{escape(line.text)}</text>')
    framed = sum(frame.height + _FRAME_TITLE + _INSET for frame in card.frames)
    below = top + card.height - framed - (10 if card.share is not None else 0)
    for frame in card.frames:
        left = x + (width - frame.width) / 2
        parts.append(f'<text class="kind" x="{x + 14:.1f}" y="{below + 11:.1f}">{escape(frame.name)}</text>'
                     f'<g transform="translate({left:.1f},{below + _FRAME_TITLE:.1f})"><rect class="canvas frame" '
                     f'width="{frame.width:.1f}" height="{frame.height:.1f}" rx="8"/>{"".join(frame.elements)}</g>')
        below += frame.height + _FRAME_TITLE + _INSET
    if card.badge:
        wide = text_width(card.badge, 9) + 12
        parts.append(f'<rect class="badge" x="{x + width - wide - 8:.1f}" y="{y + 8:.1f}" width="{wide:.1f}" '
                     f'height="15" rx="7.5"/>'
                     f'<text class="on-badge" text-anchor="middle" x="{x + width - wide / 2 - 8:.1f}" '
                     f'y="{y + 18.8:.1f}">'
                     f"{escape(card.badge)}</text>")
    if card.share is not None:
        full = width - 28
        parts.append(f'<rect class="track" x="{x + 14:.1f}" y="{y + height - 10:.1f}" width="{full:.1f}" height="3" '
                     f'rx="1.5"/>'
                     f'<rect class="bar{" hot-bar" if card.slowest else ""}" x="{x + 14:.1f}" '
                     f'y="{y + height - 10:.1f}" '
                     f'width="{full * card.share:.1f}" height="3" rx="1.5"/>')
    return "".join([*parts, "</g>"])


def _tooltip(card: _Card) -> str:
    node, entry = card.node, card.entry
    lines = [f"{node_label(node)} ({one_line(node.kind)})", *_listed(node.settings)]
    if entry:
        lines += [f"time: {duration(entry.seconds)} for {entry.queries} queries",
                  f"loading: {duration(entry.open_seconds)}"]
        lines += [text for text in (passages(entry), tokens(entry), cached(entry)) if text]
        lines += [f"peak memory: {size(entry.peak_memory)}"] if entry.peak_memory else []
        lines += _listed(entry.notes)
    return "\n".join(lines)


def _listed(values: Mapping[str, Any]) -> list[str]:
    return [f"{one_line(name)} = {shorten(setting(value), 200)}" for name, value in values.items()]


def _footer(trace: Trace | None) -> str:
    if trace is None:
        return ""
    queries = max((entry.queries for entry in trace.stages), default=0)
    return f"{duration(trace.seconds)} in all · {queries} {'query' if queries == 1 else 'queries'}"


def _summary(graph: Graph) -> str:
    """The pipeline in a sentence, for those who hear it instead of seeing it."""
    called = {node.name: node_label(node) for node in graph.nodes}
    links = [f"{called[e.source]} to {called[e.target]} ({e.type})" for e in graph.edges]
    return f"Pipeline of {len(graph.nodes)} nodes{': ' if links else ''}{', '.join(links)}"
