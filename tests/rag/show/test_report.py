"""The HTML report: one page that holds everything and needs nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from regard.rag.dag.graph import Edge, Graph, Node
from regard.rag.dag.trace import StageTrace, Trace
from regard.rag.models.verification import described
from regard.rag.nouns import Answer, Citation, Context, Passage, PassageList, Query, Ranking, Sentence
from regard.rag.show.report import ReportEntry, report_html, total

GRAPH = Graph(
    (Node("query", "input"), Node("bm25", "BM25", {"k": 10}), Node("output:passages", "output")),
    (Edge("query", "bm25", "queries", "Query"), Edge("bm25", "output:passages", "passages", "Ranking")),
)
PASSAGE = Passage("p1", "d1", "rmtree deletes a tree. <script>alert(1)</script>", 0, 48, "shutil.rmtree")


def entry(question: str, answered: bool = True, seconds: float = 0.25) -> ReportEntry:
    ranking = Ranking.ranked([0], [7.5], "bm25", PassageList([PASSAGE])).marked("bm25")
    citation = Citation("p1", "d1", 0, 22, "rmtree deletes a tree.", 0.8)
    answer = Answer("Use rmtree.", (citation,), Context((PASSAGE,), ((0, 9),), 20),
                    sentences=(Sentence(0, 11, (0,), 0.75),),
                    verifier="lexical", finish="length")
    trace = Trace([StageTrace("bm25", "BM25", 1, seconds, 0, 0, 1, peak_memory=10)], seconds)
    return ReportEntry(Query(question), ranking, answer if answered else None, trace)


def parse(html: str) -> ET.Element:
    return ET.fromstring(html)


def text_of(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def test_every_question_is_in_the_contents_and_has_its_section() -> None:
    root = parse(report_html("Demo", GRAPH,
                             [entry("How do I delete a tree?"), entry("And <b>then</b>?", answered=False)]))
    sections = {s.attrib["id"]: text_of(s) for s in root.iter("section")}
    assert list(sections) == ["pipeline", "q1", "q2"]
    (nav,) = root.iter("nav")
    assert [a.attrib["href"] for a in nav.iter("a")] == ["#pipeline", "#q1", "#q2"]
    assert "How do I delete a tree?" in sections["q1"]
    assert "bm25 #1 7.5" in sections["q1"]
    assert "Answer" in sections["q1"]
    assert "1 of 1 sentence entailed by what is cited" in sections["q1"]
    assert described("lexical") in sections["q1"]
    assert f"1 of 1 sentence entailed by what is cited · cut: its tokens ran out{described('lexical')}" in text_of(nav)
    assert "And <b>then</b>?" in sections["q2"]
    assert "Answer" not in sections["q2"]
    assert [mark.text for mark in root.iter("mark")] == ["rmtree deletes a tree."]
    assert "250 ms in all · 1 query" in sections["q1"]


def test_links_within_the_page_all_lead_somewhere_and_ids_are_unique() -> None:
    root = parse(report_html("Demo", GRAPH, [entry("the same"), entry("the same")]))
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    assert {a.attrib["href"] for a in root.iter("a")} <= {f"#{i}" for i in ids}


def test_the_page_is_self_contained_and_runs_nothing(tmp_path: Path) -> None:
    html = report_html("Demo <script>", GRAPH, [entry("q")])
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<img|<link|src=|@import|url\(", html)
    assert "default-src 'none'" in html
    assert "<title>Demo &lt;script&gt;</title>" in html
    assert html == report_html("Demo <script>", GRAPH, [entry("q")])


def test_the_drawing_shows_the_sum_of_the_runs() -> None:
    html = report_html("Demo", GRAPH, [entry("a", seconds=0.25), entry("b", seconds=0.5)])
    assert "750 ms · 2 passages out" in html
    assert "sums over the 2 questions" in html
    summed = total([entry("a").trace, entry("b").trace])
    assert (summed.seconds, summed["bm25"].queries, summed["bm25"].peak_memory) == (0.5, 2, 10)


def test_a_report_of_nothing() -> None:
    root = parse(report_html("Nothing", GRAPH, []))
    assert "0 questions" in text_of(root)
    empty = ReportEntry(Query("q"), Ranking.ranked([], [], "bm25", PassageList([])).marked("bm25"), None, Trace())
    assert "No passages." in text_of(parse(report_html("Empty", GRAPH, [empty])))
