"""Where the boxes of a layered drawing go (Sugiyama, Tagawa and Toda 1981).

Everything is in two directions, so that one computation serves left-to-right and top-to-bottom drawings: *along* the
flow, from layer to layer, and *across* it, within a layer. Links that skip layers pass through each of them in a lane
of their own, so that no link runs through a box; every link arrives in a slot of its own, as broad as its label. The
result depends on the arguments alone.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

ARROW = 9.0
_LANE = 16.0
_SWEEPS = 24


@dataclass(frozen=True, slots=True)
class Box:
    """A node's ``layer``, its ``length`` along and its least ``breadth`` across; ``stretch`` fills its layer along."""

    layer: int
    length: float
    breadth: float
    stretch: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """From a box to one in a later layer; ``label`` is the label's length along, ``slot`` the room it needs across."""

    source: str
    target: str
    label: float
    slot: float


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Where a box is: its corner nearest the origin, and its size."""

    along: float
    across: float
    length: float
    breadth: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """A straight stretch of a link at ``across``; a curve joins one run to the next."""

    begin: float
    end: float
    across: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Places by name, the runs of each link in the links' order, and the size of the whole."""

    places: dict[str, Rectangle]
    routes: list[tuple[Stretch, ...]]
    length: float
    breadth: float


@dataclass(slots=True)
class _Grid:
    """The boxes and the lanes of long links as vertices 0, 1, 2, ... in ordered layers."""

    layers: list[list[int]]
    breadth: list[float]
    chains: list[list[int]]  # for each link its vertices, from the source through lanes to the target
    slots: list[float]
    boxes: int
    above: list[list[tuple[int, int]]] = field(default_factory=list)  # of each vertex (other vertex, link), a layer up
    below: list[list[tuple[int, int]]] = field(default_factory=list)

    def is_lane(self, vertex: int) -> bool:
        return vertex >= self.boxes


def lay_out(boxes: Mapping[str, Box], links: Sequence[Link], *, spacing: float) -> Placement:
    """Place ``boxes`` at least ``spacing`` apart across, with few crossings and straight long links."""
    names = list(boxes)
    grid = _grid(boxes, links, names)
    _order(grid)
    offsets = _arrivals(grid)
    centres = _centres(grid, offsets, spacing)
    breadth = max((c + b / 2 for c, b in zip(centres, grid.breadth, strict=True)), default=0.0)
    starts, lengths, zones = _columns(grid, boxes, links, names, centres)
    places = {}
    for i, name in enumerate(names):
        layer = boxes[name].layer
        length = lengths[layer] if boxes[name].stretch else boxes[name].length
        places[name] = Rectangle(starts[layer], centres[i] - grid.breadth[i] / 2, length, grid.breadth[i])
    routes = []
    for link, chain, offset in zip(links, grid.chains, offsets, strict=True):
        layer, place = boxes[link.source].layer, places[link.source]
        runs = [Stretch(place.along + place.length, starts[layer] + lengths[layer], centres[chain[0]])]
        for step, vertex in enumerate(chain[1:], layer + 1):
            lane = grid.is_lane(vertex)
            end = starts[step] + (lengths[step] if lane else 0.0)
            runs.append(Stretch(starts[step] - zones[step], end, centres[vertex] + (0.0 if lane else offset)))
        routes.append(tuple(runs))
    return Placement(places, routes, starts[-1] + lengths[-1] if starts else 0.0, breadth)


def _grid(boxes: Mapping[str, Box], links: Sequence[Link], names: list[str]) -> _Grid:
    number = {name: i for i, name in enumerate(names)}
    layers: list[list[int]] = [[] for _ in range(1 + max((b.layer for b in boxes.values()), default=-1))]
    breadth = [boxes[name].breadth for name in names]
    for i, name in enumerate(names):
        layers[boxes[name].layer].append(i)
        breadth[i] = max(breadth[i], sum(link.slot for link in links if link.target == name))
    chains = []
    for link in links:
        chain = [number[link.source]]
        for layer in range(boxes[link.source].layer + 1, boxes[link.target].layer):
            chain.append(len(breadth))
            layers[layer].append(len(breadth))
            breadth.append(_LANE)
        chains.append([*chain, number[link.target]])
    grid = _Grid(layers, breadth, chains, [link.slot for link in links], len(names))
    grid.above = [[] for _ in breadth]
    grid.below = [[] for _ in breadth]
    for i, chain in enumerate(chains):
        for upper, lower in pairwise(chain):
            grid.below[upper].append((lower, i))
            grid.above[lower].append((upper, i))
    return grid


# -- the order within a layer ---------------------------------------------------------


def _order(grid: _Grid) -> None:
    """Barycentre sweeps down and up; the order with the fewest crossings is kept."""
    best, fewest = [list(layer) for layer in grid.layers], _crossings(grid)
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        neighbours = grid.above if downwards else grid.below
        for layer in grid.layers if downwards else reversed(grid.layers):
            _sort_by_barycentre(layer, neighbours, _positions(grid))
        crossings = _crossings(grid)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in grid.layers], crossings
    grid.layers = best


def _positions(grid: _Grid) -> dict[int, float]:
    """Each vertex's place in its layer, between 0 and 1, so that layers of different sizes compare."""
    return {v: (i + 0.5) / len(layer) for layer in grid.layers for i, v in enumerate(layer)}


def _sort_by_barycentre(layer: list[int], neighbours: list[list[tuple[int,
                                                                      int]]], position: Mapping[int, float]) -> None:
    def barycentre(vertex: int) -> float:
        around = [position[other] for other, _ in neighbours[vertex]]
        return sum(around) / len(around) if around else position[vertex]

    layer.sort(key=barycentre)


def _crossings(grid: _Grid) -> int:
    position = _positions(grid)
    total = 0
    for layer in grid.layers:
        segments = sorted((position[v], position[w]) for v in layer for w, _ in grid.below[v])
        seen: list[float] = []
        for _, end in segments:
            total += len(seen) - bisect_right(seen, end)
            insort(seen, end)
    return total


def _arrivals(grid: _Grid) -> list[float]:
    """For each link how far from its target's centre it arrives: links arrive side by side, in the order they come
    from."""
    position = _positions(grid)
    offsets = [0.0] * len(grid.chains)
    for vertex in range(grid.boxes):
        arriving = sorted(grid.above[vertex], key=lambda entry: (position[entry[0]], entry[1]))
        edge = -sum(grid.slots[link] for _, link in arriving) / 2
        for _, link in arriving:
            offsets[link] = edge + grid.slots[link] / 2
            edge += grid.slots[link]
    return offsets


# -- places across ----------------------------------------------------------------------


def _centres(grid: _Grid, offsets: Sequence[float], spacing: float) -> list[float]:
    """Pull every vertex towards its neighbours, layer after layer, without changing the order or closing the
    spacing."""
    centres = [0.0] * len(grid.breadth)
    for layer in grid.layers:
        edge = -sum(grid.breadth[v] + spacing for v in layer) / 2
        for v in layer:
            centres[v] = edge + grid.breadth[v] / 2
            edge += grid.breadth[v] + spacing
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for layer in grid.layers if downwards else reversed(grid.layers):
            wanted, weights = [], []
            for v in layer:
                pulls = _pulls(grid, v, offsets, centres, downwards)
                wanted.append(_weighted(pulls, centres[v]))
                weights.append(sum(weight for _, weight in pulls) or 0.1)
            gaps = [(grid.breadth[a] + grid.breadth[b]) / 2 + spacing for a, b in pairwise(layer)]
            for v, centre in zip(layer, _separated(wanted, weights, gaps), strict=True):
                centres[v] = centre
    least = min((c - b / 2 for c, b in zip(centres, grid.breadth, strict=True)), default=0.0)
    return [c - least for c in centres]


def _pulls(
    grid: _Grid, vertex: int, offsets: Sequence[float], centres: Sequence[float], downwards: bool,
) -> list[tuple[float, float]]:
    """Where each neighbour wants ``vertex``, and how strongly: lanes hold each other most, so that long links are
    straight."""
    pulls = []
    for other, link in grid.above[vertex]:
        arrival = offsets[link] if grid.is_lane(other) and not grid.is_lane(vertex) else 0.0
        pulls.append((centres[other] - arrival, _stiffness(grid, other, vertex) * (1.0 if downwards else 0.4)))
    for other, link in grid.below[vertex]:
        arrival = offsets[link] if grid.is_lane(vertex) and not grid.is_lane(other) else 0.0
        pulls.append((centres[other] + arrival, _stiffness(grid, vertex, other) * (0.4 if downwards else 1.0)))
    return pulls


def _stiffness(grid: _Grid, upper: int, lower: int) -> float:
    lanes = grid.is_lane(upper) + grid.is_lane(lower)
    return (4.0, 1.0, 12.0)[lanes]


def _weighted(pulls: Sequence[tuple[float, float]], default: float) -> float:
    total = sum(weight for _, weight in pulls)
    return sum(place * weight for place, weight in pulls) / total if total else default


def _separated(wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The places nearest to ``wanted`` (weighted least squares) that keep ``gaps``: pool adjacent violators."""
    shifts = [0.0]
    for gap in gaps:
        shifts.append(shifts[-1] + gap)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for want, shift, weight in zip(wanted, shifts, weights, strict=False):
        pool = (want - shift, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, mass, members = pools.pop()
            pool = ((mean * mass + pool[0] * pool[1]) / (mass + pool[1]), mass + pool[1], members + pool[2])
        pools.append(pool)
    means = [mean for mean, _, members in pools for _ in range(members)]
    return [mean + shift for mean, shift in zip(means, shifts, strict=False)]


# -- places along -----------------------------------------------------------------------


def _columns(
    grid: _Grid, boxes: Mapping[str, Box], links: Sequence[Link], names: Sequence[str], centres: Sequence[float],
) -> tuple[list[float], list[float], list[float]]:
    """For each layer where it starts, how long it is, and how long the labels before it are; curves get room as they
    need."""
    starts: list[float] = []
    lengths: list[float] = []
    zones: list[float] = []
    cursor = 0.0
    for number, layer in enumerate(grid.layers):
        zone = max((links[i].label + ARROW + 6 for v in layer if not grid.is_lane(v) for _, i in grid.above[v]),
                   default=0.0)
        steepest = max((abs(centres[v] - centres[u]) for v in layer for u, _ in grid.above[v]), default=0.0)
        cursor += (zone + min(26 + steepest * 0.12, 60)) if number else 0.0
        starts.append(cursor)
        zones.append(zone)
        lengths.append(max((boxes[names[v]].length for v in layer if not grid.is_lane(v)), default=0.0))
        cursor += lengths[-1]
    return starts, lengths, zones
