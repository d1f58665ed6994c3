"""HTML of rankings, answers, traces and pipelines: says what is so, and never becomes markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.rag.dag.graph import Edge, Graph, Node
from regard.rag.dag.trace import StageTrace, Trace
from regard.rag.markup import duration, setting, shorten, shorten_middle
from regard.rag.models.verification import SUPPORT_IS, described
from regard.rag.nouns import Answer, Batch, Citation, Context, Passage, PassageList, Ranking, Sentence, Usage
from regard.rag.show.display import answer_html, graph_html, ranking_html, result_html, trace_html

TEXT = "shutil.rmtree deletes an entire directory tree. The path must point to a directory."
PASSAGES = [
    Passage("shutil#0", "python:shutil.rmtree", TEXT, 100, 100 + len(TEXT), "shutil.rmtree"),
    Passage("os#3", "python:os.removedirs", "Remove directories recursively. " * 30, 0, 960, "os.removedirs"),
    Passage("html#1", "d", "<script>alert(1)</script>", 0, 25, "<b>bold</b>"),
]


def ranking() -> Ranking:
    first = Ranking.ranked([2, 0, 1], [12.1, 9.5, 3.0], "bm25", PassageList(PASSAGES)).marked("bm25")
    return first.rescore([0.1, 5.25, -2.0], "logit").marked("cross-encoder")


def cite(passage: Passage, quote: str, support: float) -> Citation:
    start = passage.start + passage.text.index(quote)
    return Citation(passage.id, passage.document_id, start, start + len(quote), quote, support)


def answer() -> Answer:
    text = "Use shutil.rmtree. It deletes the whole tree. It asks first."
    return Answer(
        text, (cite(PASSAGES[0], "shutil.rmtree deletes", 0.9),
               cite(PASSAGES[0], "deletes an entire directory tree.", 0.55)),
        Context(tuple(PASSAGES), ((0, 20), (20, 200), (200, 210)), 300, 4), Usage(300, 17),
        (Sentence(0, 18, (0,), 0.9), Sentence(19, 45, (0, 1), 0.2), Sentence(46, 60, (), 0.0)), "lexical", "length",
    )


def parse(html: str) -> ET.Element:
    """The fragment as a tree; it holds no script, no handler and no address."""
    root = ET.fromstring(html)
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in {"script", "img", "iframe", "link", "object"}
        assert not any(name.startswith("on") or name in {"src", "action"} for name in element.attrib)
        assert element.attrib.get("href", "#").startswith("#")
    return root


def text_of(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def by_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if name in element.attrib.get("class", "").split()]


def test_ranking_shows_rank_score_identity_and_history() -> None:
    root = parse(ranking_html(ranking()))
    assert "3 passages · score: logit" in text_of(root)
    rows = [[text_of(cell) for cell in row.iter("td")] for row in root.iter("tr")][1:]
    assert [row[:2] for row in rows] == [["1", "5.25"], ["2", "0.1"], ["3", "-2"]]
    assert rows[0][2].startswith("shutil.rmtree shutil#0")
    assert rows[0][2].endswith("bm25 #2 9.5 → cross-encoder #1 5.25")


def test_ranking_cuts_long_text_and_can_unfold_it() -> None:
    (details,) = parse(ranking_html(ranking())).iter("details")
    (cut,) = by_class(details, "rg-cut")
    assert text_of(cut).endswith("…")
    assert len(text_of(cut)) <= 260
    assert PASSAGES[1].text.strip() in "".join(details.itertext())


def test_ranking_is_limited_and_fetches_only_what_it_shows() -> None:
    asked: list[int] = []

    class Counting(PassageList):
        def passages(self, rows):  # type: ignore[no-untyped-def]  # same as the base
            asked.extend(int(r) for r in rows)
            return super().passages(rows)

    hits = Ranking.ranked([0, 1, 2], [3, 2, 1], "bm25", Counting(PASSAGES)).marked("bm25")
    assert "2 of 3 passages" in text_of(parse(ranking_html(hits, limit=2)))
    assert asked == [0, 1]


def test_hostile_text_stays_text() -> None:
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)>\x00\x1b\ud800'
    visible = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    passage = Passage(evil, evil, evil, 0, len(evil), evil)
    hits = Ranking.ranked([0], [1], "bm25", PassageList([passage])).marked(evil)
    citation = Citation(evil, evil, 0, len(evil), evil, 0.5)
    said = Answer(evil, (citation,), Context((passage,), ((0, 1),), 1), sentences=(Sentence(0, len(evil), (0,)),))
    trace = Trace([StageTrace(evil, evil, notes={evil: evil})])
    for html in (ranking_html(hits), answer_html(said), trace_html(trace), result_html({"hits": hits, evil: "x"})):
        root = parse(html)
        shown = [*root.itertext(), *(value for e in root.iter() for value in e.attrib.values())]
        assert any(visible in text for text in shown)


def test_empty_ranking_answer_and_trace() -> None:
    assert "No passages" in ranking_html(Ranking.ranked([], [], "bm25", PassageList([])).marked("bm25"))
    assert "empty answer" in answer_html(Answer(""))
    assert "No stage ran" in trace_html(Trace())
    no_text = PassageList([replace(PASSAGES[0], text="")])
    assert "(no text)" in ranking_html(Ranking.ranked([0], [1], "bm25", no_text).marked("bm25"))


def test_answer_marks_every_sentence() -> None:
    root = parse(answer_html(answer()))
    assert [text_of(e) for e in by_class(root, "rg-yes")] == ["Use shutil.rmtree."]
    assert [text_of(e) for e in by_class(root, "rg-no")] == ["It deletes the whole tree.", "It asks first."]
    (told,) = by_class(root, "rg-answer")
    assert text_of(told) == ("Use shutil.rmtree.[1] It deletes the whole tree.[1][2]not entailed It asks first.no "
                             "similar passage"
                             "cut at 17 tokens")
    facts = f"1 of 3 sentences entailed by what is cited · {described('lexical')} · 300 prompt + 17 answer tokens · 4 passages did not fit"  # noqa: E501
    assert facts in text_of(root)
    assert SUPPORT_IS in text_of(root)


def test_similar_passages_without_a_verifier_are_no_verdict() -> None:
    judged = answer()
    unjudged = replace(judged, verifier=None, finish="stop",
                       sentences=tuple(replace(s, probability=None) for s in judged.sentences))
    root = parse(answer_html(unjudged))
    assert not by_class(root, "rg-yes")
    assert [text_of(e) for e in by_class(root, "rg-similar")] == ["Use shutil.rmtree.", "It deletes the whole tree."]
    assert "2 of 3 sentences with a similar passage, not verified" in text_of(root)
    for html in (answer_html(unjudged), answer_html(judged)):
        assert not re.search(r"confidence|supported|supports", text_of(parse(html)))
    assert "cut" not in text_of(by_class(root, "rg-answer")[0])


def test_a_verifier_that_was_not_measured_says_so() -> None:
    html = answer_html(replace(answer(), verifier="nli:some/model"))
    assert "verifier nli:some/model (how often it is wrong was not measured)" in text_of(parse(html))


def test_citation_marks_lead_to_their_source() -> None:
    root = parse(answer_html(answer()))
    sources = {f"#{item.attrib['id']}": item for item in root.iter("li")}
    links = [a.attrib["href"] for a in root.iter("a")]
    assert links
    assert set(links) == set(sources)
    first = next(iter(sources.values()))
    assert text_of(first) == "“shutil.rmtree deletes”python:shutil.rmtree characters 100–121 · support 0.90"
    assert "width:90%" in ET.tostring(first, encoding="unicode")


def test_overlapping_quotes_are_highlighted_in_place() -> None:
    root = parse(answer_html(answer()))
    cited, *others = by_class(root, "rg-passage")
    assert [mark.text for mark in cited.iter("mark")] == ["shutil.rmtree ", "deletes", " an entire directory tree."]
    assert text_of(by_class(cited, "rg-full")[0]).startswith("shutil.rmtree deletes[1] an entire directory tree.[2] "
                                                             "The path")
    assert "open" in cited.attrib
    assert not any("open" in other.attrib or list(other.iter("mark")) for other in others)


def test_a_quote_that_the_passage_does_not_hold_is_called_out() -> None:
    wrong = replace(answer(), citations=(replace(answer().citations[0], quote="never said"), answer().citations[1]))
    root = parse(answer_html(wrong))
    first, second = root.iter("li")
    assert "reads otherwise" in text_of(first)
    assert "reads otherwise" not in text_of(second)
    assert "".join(m.text or "" for m in root.iter("mark")) == "deletes an entire directory tree."


def test_answer_of_a_reader_that_gives_no_sentences() -> None:
    assert text_of(by_class(parse(answer_html(Answer("Just text."))), "rg-answer")[0]) == "Just text."


def test_two_answers_on_a_page_have_their_own_anchors() -> None:
    other = replace(answer(), text="Use shutil.rmtree! It deletes the whole tree. It asks first.")
    first, second = ({item.attrib["id"] for item in parse(answer_html(a)).iter("li")} for a in (answer(), other))
    assert not first & second
    assert answer_html(answer()) == answer_html(answer())


def test_trace_shows_only_columns_that_say_something() -> None:
    bm25 = StageTrace("bm25", "BM25", 1, 0.001, 0, 0, 100)
    reader = StageTrace("reader", "Reader", 1, 2.0, 1.5, 100, 0, 1893, 57)
    trace = Trace([bm25, reader], 2.1)
    root = parse(trace_html(trace))
    head, *rows = ([text_of(cell) for cell in row] for row in root.iter("tr"))
    assert head == ["stage", "", "time", "loading", "passages in", "out", "tokens in", "out"]
    assert rows == [["bm25 BM25", "", "1 ms", "", "", "100", "", ""],
                    ["reader Reader", "", "2 s", "1.5 s", "100", "", "1,893", "57"]]
    widths = re.findall(r'rg-lane" aria-hidden="true"><span style="width:([\d.]+)%', trace_html(trace))
    assert widths == ["0.1", "100.0"]


def test_graph_and_result() -> None:
    graph = Graph((Node("query", "input"), Node("bm25", "BM25"), Node("output:hits", "output")),
                  (Edge("query", "bm25", "queries", "Query"), Edge("bm25", "output:hits", "hits", "Ranking")))
    trace = Trace([StageTrace("bm25", "BM25", 2, 0.01, 0, 0, 200)], 0.01)
    assert "10 ms · 200 passages out" in text_of(parse(graph_html(graph, trace)))
    root = parse(result_html({"hits": Batch([ranking()] * 7), "answer": answer(), "other": {"a": 1}}, trace))
    assert len(list(root.iter("table"))) == 5 + 1
    assert "and 2 more" in text_of(root)
    assert "{'a': 1}" in text_of(root)


@pytest.mark.parametrize("html", [ranking_html(ranking()), answer_html(answer())], ids=["ranking", "answer"])
def test_fragments_keep_their_style_to_themselves(html: str) -> None:
    style = html.split("<style>")[1].split("</style>")[0]
    for selectors in re.findall(r"([^{}]+)\{", style):
        assert all(s.strip().startswith(".rg") for s in selectors.split(",")), selectors
    assert not re.search(r"url\(|@import|http", html)


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=400), st.data())
def test_any_text_gives_well_formed_html(text: str, data: st.DataObject) -> None:
    passage = Passage(text, text, text, 7, 7 + len(text), text)
    ends = st.integers(0, len(text))
    spans = [sorted(data.draw(st.tuples(ends, ends))) for _ in range(3)]
    citations = tuple(Citation(text, text, 7 + a, 7 + b, text[a:b], 0.5) for a, b in spans)
    sentences = tuple(Sentence(a, b, (i,), 0.25 * i) for i, (a, b) in enumerate(spans))
    html = answer_html(Answer(text, citations, Context((passage,), ((0, 1),), 1), sentences=sentences, verifier=text,
                              finish=text))
    parse(html)
    parse(ranking_html(Ranking.ranked([0], [1.0], "bm25", PassageList([passage])).marked(text)))
    html.encode("utf-8")  # a lone surrogate could not be written to a file


@pytest.mark.parametrize(("seconds", "shown"), [
    (0, "0 ms"), (4.2e-6, "4.2 µs"), (9.96e-5, "0.1 ms"), (0.00042, "0.42 ms"), (0.00994, "9.9 ms"), (0.00996, "10 ms"),
    (0.9994, "999 ms"), (0.9996, "1 s"), (12.34, "12.3 s"), (59.99, "60 s"), (59.996, "1 min 0 s"), (125, "2 min 5 s"),
])
def test_durations_read_well_around_every_change_of_unit(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_cuts_never_exceed_their_limit() -> None:
    assert shorten("alpha beta gamma", 12) == "alpha beta…"
    assert shorten("x" * 50, 12) == "x" * 11 + "…"
    assert shorten_middle("model-name-v1.5", 9) == "mode…v1.5"
    assert setting("/data/indexes/scifact/") == "scifact"
    assert setting("BAAI/bge-small") == "BAAI/bge-small"
    assert setting({"gte": 0.50, "tags": ["a", "b"]}) == "gte: 0.5, tags: a, b"
