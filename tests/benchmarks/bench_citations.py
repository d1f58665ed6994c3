"""Citations and verifiers on XQuAD-en: how many right sentences cite their paragraph and are judged entailed, and how
many wrong ones.

A question that begins with who, what or which (and has no do, does or did) becomes a statement with its answer where
the question word was. The right statement has the gold answer, the wrong one the next other answer of the same
paragraph; each is cited and judged against that paragraph alone. Articles alternate (by title) between two halves:
rules were chosen on the first, and figures count on the second.

    python tests/benchmarks/bench_citations.py
    python tests/benchmarks/bench_citations.py --verifier lm:smollm2 --limit 100
    python tests/benchmarks/bench_citations.py --verifier nli:/path/to/a/model
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from common import Figures, arguments, collection
from regard.rag.dag.scope import Scope
from regard.rag.models.encoding import Encoder
from regard.rag.models.verification import Verifier
from regard.rag.nouns import Passage
from regard.rag.parts import part
from regard.rag.text import sentence_spans
from regard.readers.citations import Embed, cite

KINDS = ("who", "what", "which")
DO = ("do", "does", "did")


@dataclass(frozen=True, slots=True)
class Pair:
    """A right and a wrong statement on one paragraph; ``same_sentence``: the wrong answer stands in the right answer's
    sentence."""

    paragraph: Passage
    right: str
    wrong: str
    same_sentence: bool


def pairs() -> tuple[list[Pair], list[Pair]]:
    """The pairs of each half of the articles."""
    folder = collection("xquad-en")
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    paragraphs = {p["_id"]: Passage(p["_id"], p["_id"], p["text"], 0, len(p["text"]), p["title"]) for p in found}
    own = dict(line.split("\t")[:2]
               for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:])
    questions: dict[str, list[dict]] = {}
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        questions.setdefault(own[question["_id"]], []).append(question)
    articles = sorted({name.partition("#")[0] for name in paragraphs})
    halves: tuple[list[Pair], list[Pair]] = ([], [])
    for name, asked in questions.items():
        made = (_pair(paragraphs[name], i, asked) for i in range(len(asked)))
        halves[articles.index(name.partition("#")[0]) % 2].extend(pair for pair in made if pair)
    return halves


def _pair(paragraph: Passage, i: int, asked: Sequence[dict]) -> Pair | None:
    first, second, *_ = words = asked[i]["text"].split()
    if first.lower() not in KINDS or second.lower() in DO:
        return None
    answers = [question["metadata"]["answers"][0] for question in [*asked[i:], *asked[:i]]]
    gold = answers[0]
    other = next((a for a in answers[1:] if a.lower() != gold.lower()), None)
    if other is None or gold.lower() in other.lower() or other.lower() in gold.lower():
        return None
    rest = " ".join(words[1:]).rstrip(" ?")
    at = asked[i]["metadata"]["answer_start"][0]
    home = next(paragraph.text[a:b] for a, b in sentence_spans(paragraph.text) if a <= at < b)
    return Pair(paragraph, f"{gold} {rest}.", f"{other} {rest}.", other.lower() in home.lower())


def embedded(texts: Sequence[str]) -> Embed:
    """The vectors of the sentences of ``texts``, all made in one call."""
    sentences = sorted({text[a:b] for text in texts for a, b in sentence_spans(text)})
    with Scope() as scope:
        vectors = dict(zip(sentences, scope.open(part(Encoder, "minilm")).encode_passages(sentences), strict=True))
    return lambda wanted: np.stack([vectors[text] for text in wanted])


def passes(statement: str, paragraph: Passage, embed: Embed, entails: Callable | None) -> bool:
    """Whether every sentence of the statement cites something and, with a verifier, is entailed by it."""
    sentences = cite(statement, [paragraph], embed, entails=entails).sentences
    return all(s.citations and s.entailed is not False for s in sentences)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--verifier", default="lexical", help="lexical, nli:MODEL or lm:MODEL (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=0, help="so many pairs of the second half only; 0: both halves")
    options = parser.parse_args()
    first, second = pairs()
    halves = {"first half": first, "second half": second}
    if options.limit:
        chosen = np.random.default_rng(0).permutation(len(second))[:options.limit]
        halves = {f"{options.limit} of the second half": [second[i] for i in sorted(chosen)]}
    every = [pair for half in halves.values() for pair in half]
    embed = embedded([text for p in every for text in (p.right, p.wrong, p.paragraph.text)])
    judge, scope = part(Verifier, options.verifier), Scope()
    entails = scope.open(judge).entails
    figures = Figures()
    for name, half in halves.items():
        final = not options.limit and half is second
        cited = [float(p.mean()) for p in _passing(half, embed, None)]
        right, wrong = _passing(half, embed, entails)
        same = np.array([pair.same_sentence for pair in half])
        print(f"# {name}: {len(half)} right and {len(half)} wrong statements")
        figures.show("right statements that cite something", cited[0])
        figures.show("wrong statements that cite something", cited[1])
        figures.show(f"right statements that pass {judge.name}", float(right.mean()))
        figures.show(f"wrong statements that pass {judge.name}", float(wrong.mean()),
                     bar=("<", 0.25) if final else None)
        figures.show("recall lost to the verifier", round(cited[0] - float(right.mean()), 9),
                     bar=("<=", 0.05) if final else None)
        figures.show("wrong statements whose answer stands in the right answer's sentence", float(same.mean()))
        figures.show(f"of those, pass {judge.name}", float(wrong[same].mean()))
        figures.show(f"of the others, pass {judge.name}", float(wrong[~same].mean()))
    scope.close()
    figures.exit()


def _passing(half: Sequence[Pair], embed: Embed, entails: Callable | None) -> tuple[np.ndarray, np.ndarray]:
    """Which right and which wrong statements pass, bool [pairs] each."""
    return (np.array([passes(p.right, p.paragraph, embed, entails) for p in half]),
            np.array([passes(p.wrong, p.paragraph, embed, entails) for p in half]))


if __name__ == "__main__":
    main()
