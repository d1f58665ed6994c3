"""Rankings, answers, traces and pipelines as HTML for people: in notebooks, and as the parts of a report.

Each ``*_html`` function gives a fragment with its own style sheet; the ``*_body`` functions give it without, for a page
that already has ``style.FRAGMENT``. There is no script, nothing is fetched, every value is escaped, and the fragments
are well-formed XML too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..dag.graph import Graph
from ..dag.trace import StageTrace, Trace
from ..markup import amount, duration, escape, one_line, score, setting, shorten, shorten_middle, size
from ..models.verification import SUPPORT_IS, described
from ..nouns import Answer, Batch, Citation, Hit, Passage, Ranking, Sentence, Touch
from .drawing import to_svg
from .labels import cached
from .style import FRAGMENT, PAGE

_SNIPPET = 260  # characters of a passage shown before it is unfolded
_BATCH_SHOWN = 5


def ranking_html(ranking: Ranking, limit: int = 10) -> str:
    """The first ``limit`` passages as a table: rank, score, title and id, text, and what each stage made of the
    passage."""
    return fragment(ranking_body(ranking, limit))


def answer_html(answer: Answer) -> str:
    """The answer with every sentence marked as it was judged, the passages that are similar to it, and the quotes
    highlighted in place."""
    return fragment(answer_body(answer))


def trace_html(trace: Trace) -> str:
    """The stages of a run with the time each took as a bar, and its counts."""
    return fragment(trace_body(trace))


def graph_html(graph: Graph, trace: Trace | None = None) -> str:
    """The pipeline drawn; with ``trace``, every stage shows what it took."""
    return fragment(f'<div class="rg-figure">{to_svg(graph, trace)}</div>')


def result_html(outputs: Mapping[str, Any], trace: Trace | None = None) -> str:
    """What a run gave: each output under its name (the first few of a batch), then the time each stage took."""
    parts = [f'<div class="rg-head">{escape(name)}</div>{_output_body(value)}' for name, value in outputs.items()]
    if trace is not None:
        parts.append(f'<div class="rg-head">time</div>{trace_body(trace)}')
    return fragment("".join(parts))


def fragment(body: str, css: str = "") -> str:
    """``body`` with the style sheet (and ``css``), for a notebook's cell."""
    return f'<div class="rg"><style>{FRAGMENT}{css}</style>{body}</div>'


def page(title: str, body: str, css: str = "") -> str:
    """``body`` as a page of its own, which fetches nothing and runs nothing; its own policy forbids both. Write it as
    UTF-8."""
    called = escape(one_line(title))
    return "\n".join((
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>",
        '<meta name="viewport" content="width=device-width, initial-scale=1"/><meta name="color-scheme" content="light '
        'dark"/>',
        f"<title>{called}</title>\n<style>{FRAGMENT}{PAGE}{css}</style>\n</head>",
        f'<body class="rg">\n{body}\n</body>\n</html>\n',
    ))


def _output_body(value: Any) -> str:
    if isinstance(value, Ranking):
        return ranking_body(value)
    if isinstance(value, Answer):
        return answer_body(value)
    if isinstance(value, Batch):
        items = [f'<p class="rg-quiet">query {i}</p>{_output_body(item)}'
                 for i, item in enumerate(value[:_BATCH_SHOWN], 1)]
        more = len(value) - _BATCH_SHOWN
        rest = f'<p class="rg-quiet">and {amount(more)} more</p>' if more > 0 else ""
        return "".join(items) + rest
    return f"<pre>{escape(shorten(repr(value), 2000))}</pre>"


# -- rankings -----------------------------------------------------------------------------


def ranking_body(ranking: Ranking, limit: int = 10) -> str:
    """:func:`ranking_html` without the style sheet."""
    shown = ranking.top(limit)
    if not len(shown):
        return '<p class="rg-quiet">No passages.</p>'
    of = f"{amount(len(shown))} of " if len(shown) < len(ranking) else ""
    caption = f"{of}{plural(len(ranking), 'passage')} · score: {ranking.space}"
    return _table(caption, [("#", "rg-num"), ("score", "rg-num"), ("passage", "")], map(_hit_row, shown))


def _table(caption: str, columns: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    """A table with ``columns`` (heading, class) and finished ``rows``."""
    heads = "".join(f'<th scope="col" class="{css}">{escape(name)}</th>' for name, css in columns)
    return (f'<div class="rg-scroll"><table class="rg-table"><caption>{escape(caption)}</caption>'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>")


def _hit_row(hit: Hit) -> str:
    return (f'<tr><td class="rg-num"><b>{hit.rank}</b></td><td class="rg-num">{score(hit.score)}</td>'
            f"<td><div>{heading(hit.passage)}</div>{_unfolding(hit.passage.text)}{chips(hit.history)}</td></tr>")


def heading(passage: Passage) -> str:
    """A passage's title and id, with its document and span as the tip."""
    title = f'<b dir="auto">{escape(one_line(passage.title))}</b> ' if passage.title else ""
    where = f"{passage.id}: {passage.document_id} [{passage.start}:{passage.end}]"
    return f"<span>{title}{_identity(passage.id, where)}</span>"


def _identity(name: str, tip: str = "") -> str:
    """An id, cut in the middle when it is long, with all of it as the tip."""
    return f'<code title="{escape(tip or name)}">{escape(shorten_middle(one_line(name), 72))}</code>'


def _unfolding(text: str) -> str:
    """The beginning of a text, and all of it on request."""
    flat = one_line(text)
    if not flat:
        return '<div class="rg-quiet">(no text)</div>'
    if len(flat) <= _SNIPPET:
        return f'<div class="rg-text" dir="auto">{escape(flat)}</div>'
    return (f'<details class="rg-more"><summary><span class="rg-cut" '
            f'dir="auto">{escape(shorten(flat, _SNIPPET))}</span></summary>'
            f'<div class="rg-text rg-full" dir="auto">{escape(text.strip())}</div></details>')


def chips(history: Sequence[Touch]) -> str:
    """What each stage made of a hit, one chip a stage; nothing where there is no history."""
    parts = [
        f'<span class="rg-chip" title="{escape(f"{t.stage}: rank {t.rank}, {t.space} {t.score:.6g}")}">'
        f"{escape(shorten_middle(one_line(t.stage), 32))} <b>#{t.rank}</b> {score(t.score)}</span>" for t in history
    ]
    return f'<div class="rg-chips">{" <i>→</i> ".join(parts)}</div>' if parts else ""


# -- answers ------------------------------------------------------------------------------


def answer_body(answer: Answer, anchor: str | None = None) -> str:
    """:func:`answer_html` without the style sheet. ``anchor`` starts the ids that citation marks link to; unique in its
    page."""
    said = repr((answer.text, answer.citations)).encode("utf-8", "replace")
    anchor = anchor or hashlib.blake2b(said, digest_size=5).hexdigest()
    parts = [f'<div class="rg-answer" dir="auto">{_marked_sentences(answer, anchor)}</div>', _facts(answer)]
    if answer.citations:
        sources = "".join(_source(number, citation, answer, anchor)
                          for number, citation in enumerate(answer.citations, 1))
        parts.append(f'<div class="rg-head">Similar passages</div><p class="rg-quiet">support: {escape(SUPPORT_IS)}</p>'
                     f'<ol class="rg-sources">{sources}</ol>')
    if answer.context and answer.context.passages:
        passages = "".join(_context_passage(passage, answer, anchor) for passage in answer.context.passages)
        parts.append(f'<div class="rg-head">What the reader was shown</div>{passages}')
    return "".join(parts)


def _marked_sentences(answer: Answer, anchor: str) -> str:
    text = answer.text
    if not text.strip():
        return f'<span class="rg-quiet">(empty answer)</span>{_warn(answer.note)}'
    parts, cursor = [], 0
    for sentence in sorted(answer.sentences, key=lambda s: s.start):
        start = max(sentence.start, cursor)
        parts.append(escape(text[cursor:start]))
        cursor = max(cursor, sentence.end)
        marks = "".join(_mark(i + 1, anchor) for i in sentence.citations)
        kind, warning = _verdict(sentence)
        parts.append(f'<span class="rg-{kind}">{escape(text[start:cursor])}</span>{marks}{_warn(warning)}')
    parts.append(escape(text[cursor:]))
    return "".join([*parts, _warn(answer.note)])


def _verdict(sentence: Sentence) -> tuple[str, str]:
    """The class of a sentence, and what is to be said of it."""
    if not sentence.citations:
        return "no", "no similar passage"
    if sentence.entailed is False:
        return "no", "not entailed"
    return ("yes" if sentence.entailed else "similar"), ""


def _warn(text: str) -> str:
    return f'<span class="rg-warn">{escape(text)}</span>' if text else ""


def _mark(number: int, anchor: str) -> str:
    return f'<sup><a href="#rg-{escape(anchor)}-{number}">[{number}]</a></sup>'


def _facts(answer: Answer) -> str:
    facts = []
    if answer.sentences:
        facts.append(judged(answer))
        if answer.verifier:
            facts.append(described(answer.verifier))
    if answer.usage.prompt_tokens or answer.usage.completion_tokens:
        facts.append(f"{amount(answer.usage.prompt_tokens)} prompt + {amount(answer.usage.completion_tokens)} answer "
                     f"tokens")
    if answer.context and answer.context.dropped:
        facts.append(f"{plural(answer.context.dropped, 'passage')} did not fit the prompt")
    return f'<div class="rg-quiet">{escape(" · ".join(facts))}</div>' if facts else ""


def judged(answer: Answer) -> str:
    """How many sentences are entailed by what they cite, or, without a verifier, have a similar passage."""
    of = plural(len(answer.sentences), "sentence")
    if answer.verifier is None:
        return f"{len(answer.sentences) - len(answer.uncited)} of {of} with a similar passage, not verified"
    return f"{sum(s.entailed is True for s in answer.sentences)} of {of} entailed by what is cited"


def _source(number: int, citation: Citation, answer: Answer, anchor: str) -> str:
    support = min(1.0, max(0.0, citation.support))
    odd = "" if _stands(citation, answer) else ' <span class="rg-warn">the passage reads otherwise at this span</span>'
    return (f'<li id="rg-{escape(anchor)}-{number}" value="{number}">'
            f'<span class="rg-quote" dir="auto">“{escape(one_line(citation.quote))}”</span>'
            f'<div class="rg-quiet">{_identity(citation.document_id)} characters {citation.start}–{citation.end} · '
            f'support '
            f'<span class="rg-meter" aria-hidden="true"><span style="width:{support:.0%}"></span></span> '
            f"{citation.support:.2f}{odd}</div></li>")


def _stands(citation: Citation, answer: Answer) -> bool:
    """Whether the quote stands where the citation says, as far as the context lets us see."""
    shown = {p.id: p for p in answer.context.passages} if answer.context else {}
    passage = shown.get(citation.passage_id)
    return passage is None or _quoted(passage, citation) == citation.quote


def _quoted(passage: Passage, citation: Citation) -> str:
    begin = citation.start - passage.start
    return passage.text[begin:citation.end - passage.start] if begin >= 0 else ""


def _context_passage(passage: Passage, answer: Answer, anchor: str) -> str:
    cited = [(i, c) for i, c in enumerate(answer.citations, 1) if c.passage_id == passage.id
             and _quoted(passage, c) == c.quote]
    count = f' <span class="rg-quiet">{plural(len(cited), "citation")}</span>' if cited else ""
    state = ' open=""' if cited else ""
    return (f'<details class="rg-passage"{state}><summary>{heading(passage)}{count}</summary>'
            f'<div class="rg-text rg-full" dir="auto">{_highlighted(passage, cited, anchor)}</div></details>')


def _highlighted(passage: Passage, cited: Iterable[tuple[int, Citation]], anchor: str) -> str:
    """The passage's text with ``<mark>`` around the quotes, which may overlap, and the citation's number after each."""
    spans = [(c.start - passage.start, c.end - passage.start, number) for number, c in cited]
    end_of_text = len(passage.text.rstrip())
    cuts = sorted({0, end_of_text, *(a for a, _, _ in spans), *(b for _, b, _ in spans)})
    parts = []
    for begin, end in pairwise(cuts):
        piece = escape(passage.text[begin:end])
        inside = any(a <= begin and end <= b for a, b, _ in spans)
        parts.append(f"<mark>{piece}</mark>" if inside else piece)
        parts += [_mark(number, anchor) for _, b, number in spans if b == end]
    return "".join(parts)


# -- traces -------------------------------------------------------------------------------


def trace_body(trace: Trace) -> str:
    """:func:`trace_html` without the style sheet."""
    if not trace.stages:
        return '<p class="rg-quiet">No stage ran.</p>'
    columns = _trace_columns(trace.stages)
    longest = max(entry.seconds for entry in trace.stages) or 1.0
    rows = (_stage_row(entry, longest, [cells[i] for _, cells in columns]) for i, entry in enumerate(trace.stages))
    queries = max(entry.queries for entry in trace.stages)
    heads = [("stage", "rg-stage"), ("", "rg-time"), *((name, "rg-num") for name, _ in columns)]
    return _table(f"{duration(trace.seconds)} in all · {plural(queries, 'query', 'queries')}", heads, rows)


def _stage_row(entry: StageTrace, longest: float, cells: Iterable[str]) -> str:
    stage, kind = (escape(shorten_middle(one_line(text), 40)) for text in (entry.stage, entry.kind))
    bar = f'<span class="rg-lane" aria-hidden="true"><span style="width:{entry.seconds / longest:.1%}"></span></span>'
    numbers = "".join(f'<td class="rg-num">{escape(text)}</td>' for text in cells)
    return (f'<tr><td class="rg-stage" title="{escape(_notes(entry))}"><b>{stage}</b> <span '
            f'class="rg-quiet">{kind}</span></td>'
            f'<td class="rg-time">{bar}</td>{numbers}</tr>')


def _trace_columns(stages: Sequence[StageTrace]) -> list[tuple[str, list[str]]]:
    """The columns that say something of at least one stage."""
    columns = [
        ("time", [duration(e.seconds) for e in stages]),
        ("loading", [duration(e.open_seconds) if e.open_seconds else "" for e in stages]),
        ("passages in", [_count(e.candidates_in) for e in stages]),
        ("out", [_count(e.candidates_out) for e in stages]),
        ("tokens in", [_count(e.tokens_in) for e in stages]),
        ("out", [_count(e.tokens_out) for e in stages]),
        ("cache", [cached(e) for e in stages]),
        ("peak memory", [size(e.peak_memory) if e.peak_memory else "" for e in stages]),
    ]
    return [(name, cells) for name, cells in columns if any(cells)]


def _notes(entry: StageTrace) -> str:
    return "\n".join(f"{one_line(name)} = {setting(value)}" for name, value in entry.notes.items())


def _count(number: int) -> str:
    return amount(number) if number else ""


def plural(number: int, one: str, many: str = "") -> str:
    """``1 query``, ``12 queries``; ``many`` where an s is not enough."""
    return f"{amount(number)} {one if number == 1 else many or one + 's'}"
