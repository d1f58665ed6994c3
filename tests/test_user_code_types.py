"""What a user's type checker says: right code passes mypy --strict, as the README's and the notebook's does, and each
wrong line is refused where it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import regard

ROOT = Path(__file__).resolve().parents[1]

RIGHT = '''
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import assert_type

from regard.indexers import build_index
from regard.rag import Answer, Batch, Document, Hit, Pipeline, Query, Ranking, Stage
from regard.rag.app.batch import run_queries
from regard.rag.dag.pipeline import Wire
from regard.readers import Reader, RemoteReader
from regard.rerankers import AttentionReranker, BlockICR, CrossEncoder
from regard.retrievers import BM25, Dense, Fuse, Parents


class Shout(Stage):
    mark: str = "!"

    def run(self, queries: Batch[Query]) -> Batch[Query]:
        return Batch(replace(q, text=q.text.upper() + self.mark) for q in queries)


class Words(Stage):
    def run(self, queries: Batch[Query]) -> Batch[list[str]]:
        return Batch(q.text.split() for q in queries)


class Count(Stage):
    def run(self, words: Batch[Sequence[str]], answers: Batch[Answer] | None = None) -> Batch[int]:
        return Batch(len(each) for each in words)


build_index([Document("a", "text")], "my-index", views=["bm25"])
p = Pipeline()
query = p.input(Query)
assert_type(query, Wire[Query])
loud = p.add(Shout("?"), query)
hits = p.add(Fuse(), p.add(BM25("my-index", k=200), loud), p.add(Dense(Path("my-index")), query), name="fused")
best: Wire[Ranking] = p.add(CrossEncoder(depth=50), query, hits)
assert_type(best, Wire[Ranking])
attended = p.add(AttentionReranker(policy=BlockICR(), cache=Path("my-index")), query, p.add(Parents(), best))
answer = p.add(Reader(), query, attended)
assert_type(answer, Wire[Answer])
p.add(RemoteReader(model="model"), query, best)
words = p.add(Words(), query)
assert_type(words, Wire[list[str]])
assert_type(p.add(Count(), words), Wire[int])
assert_type(p.add(Count(), words, answer), Wire[int])
p.add(Count(), p.input(list[str]))
p.output(passages=best, answer=answer)
print(p.run("why").answer.text)
run_queries(p, "queries.jsonl", "out.run", cache="cache")
ranking: Ranking = BM25("my-index").apply(["flea"])[0]
assert_type(ranking[0], Hit)


def louder(query: Query) -> Query:
    return query.derive(query.text.upper())


assert_type(p.add(louder, query), Wire[Query])
chain: Pipeline = BM25("my-index") >> CrossEncoder()
assert_type(ranking[0:2], Ranking)
'''

SHORT = '''
from typing import assert_type

from regard import (
    BM25, RAG, Answer, AttentionReranker, CrossEncoder, Dense, Document, Fuse, Passage, Pipeline, Query, Ranking,
    Reader, __version__,
    build_index, rerank,
)

with RAG("docs/", encoder=None) as rag:
    assert_type(rag.ask("why"), Answer)
    assert_type(rag.search(Query("why"), k=3), Ranking)
    assert_type(rag.pipeline, Pipeline)
print(RAG([Document("a", "text")], "my-index", progress=False), rag.report, __version__)
assert_type(rerank("why", ["one", ("b", "two"), Document("c", "three"), Passage("d", "d", "four", 0, 4)], k=2), Ranking)
rerank(Query("why"), (text for text in "ab"), "other-model")
rerank("why", ["one"], AttentionReranker(depth=5))
build_index([Document("a", "text")], "my-index", views=["bm25"])
p = Pipeline()
query = p.input(Query)
best = p.add(CrossEncoder(), query, p.add(Fuse(), p.add(BM25("my-index"), query), p.add(Dense("my-index"), query)))
p.output(answer=p.add(Reader(), query, best))
'''

WRONG = '''
from regard import Nothing  # refused: no such name
from regard import RAG, rerank
from regard.rag import Pipeline, Query
from regard.readers import Reader
from regard.rerankers import CrossEncoder
from regard.retrievers import BM25, Fuse, Parents

p = Pipeline()
query = p.input(Query)
hits = p.add(BM25("my-index"), query)
p.add(CrossEncoder(), hits, query)  # refused: the wrong order
p.add(CrossEncoder(), query)  # refused: one too few
p.add(Parents(), hits, hits)  # refused: one too many
p.add(BM25("my-index"), hits)  # refused: a ranking is no query
p.add(Fuse(), hits, query)  # refused: one of several
p.add(Reader(), query, p.add(Reader(), query, hits))  # refused: an answer is no ranking
p.add(query, hits)  # refused: a wire is no stage
p.output(passages=CrossEncoder())  # refused: a stage is no wire
BM25("my-index", k="many")  # refused: a setting of another type
rerank("why", [1, 2])  # refused: numbers are no texts
RAG("docs/").ask(["one", "two"])  # refused: one question at a time
RAG("docs/", encoder=3)  # refused: no encoder
'''


def _notebook() -> str:
    """The quickstart's code, but the cells that show how a mistake is refused."""
    cells = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code" and "except " not in cell.source)


def _packages(folder: Path) -> Path:
    """The folder under which mypy finds ``regard.*`` as it stands here, installed or not."""
    (folder / "regard").mkdir()
    (folder / "regard" / "__init__.py").symlink_to(regard.__file__)
    for name in ("rag", "indexers", "retrievers", "rerankers", "readers", "kernels"):
        spec = find_spec(f"regard.{name}")
        assert spec is not None
        assert spec.origin is not None
        (folder / "regard" / name).symlink_to(Path(spec.origin).parent)
    return folder


def test_right_code_passes_and_wrong_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "short.py").write_text(SHORT)
    (tmp_path / "readme.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(),
                                                             re.DOTALL)))
    (tmp_path / "quickstart.py").write_text(_notebook())
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    # other libraries' types are left out: following numpy's and torch's takes ten times as long
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-site-packages",
               "--ignore-missing-imports",
               "--namespace-packages", "--explicit-package-bases", "--follow-imports=silent",
               "right.py", "short.py", "wrong.py", "readme.py", "quickstart.py"]
    (tmp_path / "path").mkdir()
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(_packages(tmp_path / "path"))},
                          capture_output=True,
                          text=True, check=False)
    found = re.findall(r"^(\w+)\.py:(\d+): error", done.stdout, re.MULTILINE)
    assert done.stderr == ""
    assert [place for place in found if place[0] != "wrong"] == [], done.stdout
    wanted = {i for i, line in enumerate(WRONG.splitlines(), 1) if "# refused" in line}
    assert {int(line) for name, line in found if name == "wrong"} == wanted, done.stdout
