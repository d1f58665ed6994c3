"""Mermaid and SVG of pipelines: well-formed for any name, nothing overlaps, the same every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.rag import Pipeline, Query, Ranking
from regard.rag.dag.graph import Edge, Graph, Node
from regard.rag.dag.trace import StageTrace, Trace
from regard.rag.show.drawing import to_mermaid, to_svg
from regard.rag.show.layout import Box, Link, lay_out

SVG = "{http://www.w3.org/2000/svg}"
INDEX = "/data/indexes/stdlib-docstrings"


def pipeline() -> Graph:
    """The default pipeline, as ``Pipeline.graph`` gives it."""
    return Graph(
        (
            Node("query", "input"),
            Node("bm25", "BM25", {"index": INDEX, "k": 100, "filters": None}),
            Node("dense", "Dense", {"index": INDEX, "k": 100, "model": "minilm"}),
            Node("fuse", "Fuse", {"method": "rrf", "c": 60}),
            Node("cross-encoder", "CrossEncoder", {"model": "minilm-cross-encoder", "depth": 50}),
            Node("reader", "Reader", {"model": "smollm2", "budget": 2048}),
            Node("output:answer", "output"), Node("output:passages", "output"),
        ),
        (
            Edge("query", "bm25", "queries", "Query"), Edge("query", "dense", "queries", "Query"),
            Edge("bm25", "fuse", "rankings", "Ranking"), Edge("dense", "fuse", "rankings", "Ranking"),
            Edge("query", "cross-encoder", "queries", "Query"), Edge("fuse", "cross-encoder", "rankings", "Ranking"),
            Edge("query", "reader", "queries", "Query"), Edge("cross-encoder", "reader", "rankings", "Ranking"),
            Edge("reader", "output:answer", "answer", "Answer"),
            Edge("cross-encoder", "output:passages", "passages", "Ranking"),
        ),
    )


def run() -> Trace:
    return Trace([
        StageTrace("bm25", "BM25", 1, 0.0004, 0.1, 0, 100), StageTrace("dense", "Dense", 1, 0.012, 2.0, 0, 100, 11),
        StageTrace("fuse", "Fuse", 1, 0.0, 0.0, 200, 100, cache_hits=1),
        StageTrace("cross-encoder", "CrossEncoder", 1, 0.84, 0.4, 100, 50, 7312),
        StageTrace("reader", "Reader", 1, 3.412, 1.2, 50, 0, 1893, 57, notes={"kept": 9}),
    ], 4.29)


def chain(length: int) -> Graph:
    names = [f"stage-{i}" for i in range(length)]
    edges = [Edge("query", names[0], "queries", "Query")]
    for before, after in pairwise(names):
        edges += [Edge("query", after, "queries", "Query"), Edge(before, after, "rankings", "Ranking")]
    nodes = [Node("query", "input"), *(Node(n, "Reranker", {"k": 10}) for n in names),
             Node("output:passages", "output")]
    return Graph(tuple(nodes), (*edges, Edge(names[-1], "output:passages", "passages", "Ranking")))


def fan(width: int) -> Graph:
    names = [f"retriever-{i}" for i in range(width)]
    stages = [*(Node(n, "Dense", {"k": 10}) for n in names), Node("fuse", "Fuse")]
    return Graph(
        (Node("query", "input"), *stages, Node("output:hits", "output")),
        (*(Edge("query", n, "queries", "Query") for n in names),
         *(Edge(n, "fuse", "rankings", "Ranking") for n in names),
         Edge("fuse", "output:hits", "hits", "Ranking")),
    )


WORDS = st.from_regex(r"[a-z]{1,12}", fullmatch=True)
ANYTHING = st.text(st.characters(), max_size=20)


@st.composite
def graphs(draw: st.DrawFn, names: st.SearchStrategy[str]) -> Graph:
    found = draw(st.lists(names, min_size=1, max_size=9, unique=True))
    nodes = [Node(name, draw(st.sampled_from(["input", "output", "BM25", name])), {name: name}) for name in found]
    edges = []
    for j, node in enumerate(nodes):
        for i in draw(st.lists(st.integers(0, j - 1), max_size=3)) if j else []:
            port, kind = draw(st.sampled_from(["queries", node.name])), draw(st.sampled_from(["Query", "Ranking",
                                                                                              node.name]))
            edges.append(Edge(nodes[i].name, node.name, port, kind))
    return Graph(tuple(nodes), tuple(edges))


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def rectangles(svg: str, *styles: str) -> list[tuple[float, float, float, float]]:
    """x, y, width, height of the rectangles of these classes (the background, which has no x, is left out)."""
    return [
        tuple(float(r.attrib[key]) for key in ("x", "y", "width", "height"))  # type: ignore[misc]  # four keys
        for r in ET.fromstring(svg).iter(f"{SVG}rect") if "x" in r.attrib and r.attrib["class"].split()[0] in styles
    ]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    slack = 0.2  # coordinates are rounded to a tenth
    return (a[0] + a[2] > b[0] + slack and b[0] + b[2] > a[0] + slack and a[1] + a[3] > b[1] + slack and b[1]
            + b[3] > a[1] + slack)


def assert_clear(svg: str) -> None:
    """No two boxes or edge labels overlap, and all of them are inside the picture."""
    things = rectangles(svg, "stage", "end", "canvas")  # an edge's label lies on a piece of canvas
    for a, b in combinations(things, 2):
        assert not overlap(a, b), (a, b)
    _, _, width, height = map(float, ET.fromstring(svg).attrib["viewBox"].split())
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in things)


def test_svg_says_what_the_pipeline_is() -> None:
    svg = to_svg(pipeline())
    said = texts(svg)
    assert {"query", "bm25", "BM25", "cross-encoder", "CrossEncoder", "answer", "passages"} <= set(said)
    assert said.count("Query") == 2, "a target with one port shows the type only"
    assert said.count("queries: Query") == 2, "a target with several ports names them"
    assert said.count("rankings: Ranking") == 2
    assert any("index=stdlib-docstrings" in line for line in said), "of a path the last part"
    root = ET.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert "query to bm25 (Query)" in root.attrib["aria-label"]
    tips = [tip.text or "" for tip in root.iter(f"{SVG}title")]
    assert any("c = 60" in tip and "method = rrf" in tip for tip in tips), "the tip has every setting"


def test_svg_of_a_run_shows_what_each_stage_took() -> None:
    svg = to_svg(pipeline(), run())
    said = texts(svg)
    assert {"840 ms · 100 → 50 passages", "7,312 tokens", "1,893 → 57 tokens", "cached",
            "4.29 s in all · 1 query"} <= set(said)
    slow = [g for g in ET.fromstring(svg).iter(f"{SVG}g") if g.find(f"{SVG}rect[@class='stage slowest']") is not None]
    assert [g.findtext(f"{SVG}text") for g in slow] == ["reader"]
    assert "kept = 9" in (slow[0].findtext(f"{SVG}title") or "")
    assert "slowest" not in to_svg(pipeline()).split("</style>")[1]


@pytest.mark.parametrize("graph", [pipeline(), chain(1), chain(10), fan(6), fan(25)],
                         ids=["default", "one", "deep", "wide", "wider"])
@pytest.mark.parametrize("trace", [None, run()], ids=["before", "after"])
def test_nothing_overlaps(graph: Graph, trace: Trace | None) -> None:
    assert_clear(to_svg(graph, trace))


def test_a_deep_pipeline_goes_down_and_a_short_one_across() -> None:
    def shape(graph: Graph) -> tuple[float, float]:
        root = ET.fromstring(to_svg(graph))
        return float(root.attrib["width"]), float(root.attrib["height"])

    width, height = shape(chain(10))
    assert height > width
    assert width < 1000
    width, height = shape(chain(1))
    assert width > height
    assert to_mermaid(chain(10)).startswith("flowchart TD\n")
    assert to_mermaid(chain(1)).startswith("flowchart LR\n")


@settings(max_examples=60, deadline=None)
@given(graphs(WORDS))
def test_nothing_overlaps_in_any_graph(graph: Graph) -> None:
    assert_clear(to_svg(graph))


@settings(max_examples=60, deadline=None)
@given(graphs(ANYTHING))
def test_any_name_gives_a_well_formed_picture(graph: Graph) -> None:
    svg = to_svg(graph, Trace([StageTrace(n.name, n.kind, 2, 0.1, notes={n.name: n.name}) for n in graph.nodes], 0.2))
    ET.fromstring(svg)
    svg.encode("utf-8")  # a lone surrogate could not be written to a file
    lines = to_mermaid(graph).splitlines()
    assert len(lines) == 1 + len(graph.nodes) + len(graph.edges), "a name broke its line"
    assert all(line.count('"') == 2 for line in lines[1:]), "a name ended its label"


def test_names_are_escaped() -> None:
    name = '<script>alert("1")</script>&\x00\x1b\ud800\ufffe'
    graph = Graph((Node(name, "input"), Node("output:x", "output")), (Edge(name, "output:x", "x", "<b>"),))
    svg = to_svg(graph)
    assert "<script" not in svg
    assert '<script>alert("1")</script>&' in svg.replace("&lt;", "<").replace("&gt;",
                                                                              ">").replace("&quot;", '"').replace("&amp;", "&")  # noqa: E501
    assert 'n0(["#60;script#62;alert#40;#34;1#34;#41;#60;#47;script#62;#38;' in to_mermaid(graph)


def test_the_picture_needs_nothing_but_itself() -> None:
    svg = to_svg(pipeline(), run())
    assert re.findall(r"https?://[^\s\"]+", svg) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<script|href|url\(|@import|@font-face|<image|foreignObject", svg)
    assert "prefers-color-scheme:dark" in svg


def test_the_same_pipeline_gives_the_same_picture_in_every_process() -> None:
    script = "; ".join((
        "import importlib.util as u", f"s = u.spec_from_file_location('t', {__file__!r})", "m = u.module_from_spec(s)",
        "s.loader.exec_module(m)", "print(m.to_svg(m.pipeline(), m.run()), m.to_mermaid(m.fan(6)))",
    ))
    first, second = (
        subprocess.check_output([sys.executable, "-c", script],
                                env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"})
        for seed in ("1", "2")
    )
    assert first == second != b""


def test_an_empty_graph_can_be_drawn() -> None:
    ET.fromstring(to_svg(Graph((), ())))
    assert to_mermaid(Graph((), ())) == "flowchart LR\n"


@settings(max_examples=60, deadline=None)
@given(graphs(WORDS))
def test_no_link_runs_through_a_box(graph: Graph) -> None:
    layers = graph.layers()
    boxes = {n.name: Box(layers[n.name], 40.0 + 3 * len(n.name), 20.0 + 5 * len(n.name)) for n in graph.nodes}
    layout = lay_out(boxes, [Link(e.source, e.target, 30, 18) for e in graph.edges], spacing=12)
    for edge, route in zip(graph.edges, layout.routes, strict=True):
        assert route[-1].end == layout.places[edge.target].along
        assert len(route) == layers[edge.target] - layers[edge.source] + 1
        for before, after in pairwise(route):
            assert before.end < after.begin, "a curve has room between the layers"
        for run_ in route:
            for name, place in layout.places.items():
                beside = not place.across < run_.across < place.across + place.breadth
                clear = run_.end <= place.along or run_.begin >= place.along + place.length
                assert beside or clear, (edge, name)


def test_links_that_need_not_cross_do_not() -> None:
    boxes = {name: Box(layer, 10, 10) for layer, names in enumerate(("ab", "cd", "ef")) for name in names}
    links = [Link(a, b, 5, 5) for a, b in ("ad", "bc", "cf", "de")]
    places = lay_out(boxes, links, spacing=5).places
    orders = [places[x].across < places[y].across for x, y in ("ab", "dc", "ef")]
    assert len(set(orders)) == 1


def test_a_setting_that_is_a_part_is_drawn_as_its_text() -> None:
    from regard.rerankers import ICR, AttentionReranker

    p = Pipeline()
    p.output(best=p.add(AttentionReranker(policy=ICR(window=20)), p.input(Query), p.input(Ranking)))
    assert "policy = ICR:window=20" in p.to_svg()
    assert "part: ICR" not in p.to_svg()
