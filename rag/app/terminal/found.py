"""Rankings, answers and their times, and the JSON that is printed instead."""

from __future__ import annotations

from typing import Any

from ...dag.trace import Trace
from ...markup import one_line
from ...models.verification import MEASURED, SUPPORT_IS, described
from ...nouns import Answer, Ranking
from ...show.display import judged
from . import duration, say

_SHOWN = 280  # characters of a passage


def ranking_json(ranking: Ranking) -> list[dict[str, Any]]:
    """The hits as the ``passages`` of ``--json``."""
    return [
        {
            "id": hit.passage.id, "document_id": hit.passage.document_id, "rank": hit.rank, "score": hit.score,
            "score_space": ranking.space, "title": hit.passage.title, "text": hit.passage.text,
            "start": hit.passage.start, "end": hit.passage.end, "history": [touch.to_dict() for touch in hit.history],
        }
        for hit in ranking
    ]


def answer_json(answer: Answer) -> dict[str, Any]:
    """The ``answer`` of ``--json``: the text and why it ends, its sentences with the verdict on each, and the similar
    passages.

    ``support_is`` says what ``support`` means. ``verifier`` is null where none judged; its ``false_passes`` and
    ``recall`` are null where they were not measured.
    """
    return {
        "text": answer.text, "finish": answer.finish, "truncated": answer.truncated, "note": answer.note,
        "sentences": [
            {"text": answer.text[s.start:s.end], "start": s.start, "end": s.end, "citations": list(s.citations),
             "entailed": s.entailed, "probability": s.probability}
            for s in answer.sentences
        ],
        "citations": [c.to_dict() for c in answer.citations], "support_is": SUPPORT_IS,
        "verifier": verifier_json(answer.verifier) if answer.verifier else None,
        "unsupported": list(answer.unsupported), "uncited": list(answer.uncited),
    }


def verifier_json(name: str) -> dict[str, Any]:
    """A verifier and how often it is wrong."""
    known = MEASURED.get(name)
    return {"name": name, "false_passes": known.false_passes if known else None,
            "recall": known.recall if known else None, "measured_on": known.on if known else None}


def show_ranking(query: str, ranking: Ranking, trace: Trace) -> None:
    say((one_line(query), "bold"), "  ", (f"{len(ranking)} passages, scores: {one_line(ranking.space)}", "dim"), "\n")
    if not len(ranking):
        say("nothing was found: other words may help, or fewer filters")
    for hit in ranking:
        path = " · ".join(f"{one_line(touch.stage)} #{touch.rank}" for touch in hit.history)
        say((f"{hit.rank:>2}", "bold cyan"), "  ", (one_line(hit.passage.title or hit.passage.document_id), "bold"),
            f"  {hit.score:.3f}  ", (f"{one_line(hit.passage.id)}  {path}", "dim"))
        say(f"    {_cut(hit.passage.text)}\n")
    show_times(trace)


def show_citations(answer: Answer, trace: Trace) -> None:
    """What follows an answer that was streamed."""
    say()
    if answer.note:
        say((f"The answer: {one_line(answer.note)}.", "yellow"))
    if answer.citations:
        say(("Similar passages", "bold"), "  ", (f"support: {SUPPORT_IS}", "dim"))
    for number, citation in enumerate(answer.citations, 1):
        say("  ", (f"[{number}]", "cyan"), f" {one_line(citation.document_id)} ",
            (f"{citation.start}-{citation.end}, support {citation.support:.2f}", "dim"),
            f"\n      “{_cut(citation.quote)}”")
    for sentence in answer.uncited:
        say("  ", ("no similar passage:", "yellow"), f" {one_line(sentence)}")
    for sentence in answer.unsupported:
        if sentence not in answer.uncited:
            say("  ", ("not entailed:", "yellow"), f" {one_line(sentence)}")
    if answer.sentences:
        by = f"; {described(answer.verifier)}" if answer.verifier else ""
        say((f"  {judged(answer)}{one_line(by)}", "dim"))
    say()
    show_times(trace)


def show_times(trace: Trace) -> None:
    stages = " · ".join(f"{one_line(s.stage)} {duration(s.seconds)}" for s in trace.stages)
    loading = sum(s.open_seconds for s in trace.stages)
    of_it = f", of it loading {duration(loading)}" if loading > 0.05 else ""
    say((f"{stages} · total {duration(trace.seconds)}{of_it}", "dim"))


def _cut(text: str) -> str:
    flat = one_line(text)
    return flat if len(flat) <= _SHOWN else flat[:_SHOWN].rsplit(" ", 1)[0] + " …"
