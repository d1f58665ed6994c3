"""Encoding speed: an indexing job (read, chunk, encode, commit; no views) against a bare SentenceTransformer.encode.

Both take the same passages and run in this process, in turn, with models that are already loaded; figures are medians.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from itertools import islice
from pathlib import Path

from common import Figures, alternate, arguments, collection, median
from regard.indexers import build_index
from regard.indexers.corpus import read_corpus
from regard.rag.dag.scope import Scope
from regard.rag.models import device, resolve
from regard.rag.models.encoding import Encoder
from regard.rag.parts import part


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--passages", type=int, default=600, help="SciFact abstracts to encode (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: %(default)s)")
    options = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    documents = list(islice(read_corpus(collection("scifact"), format="beir", on_skip=print), options.passages))
    texts = [f"{d.title}\n{d.text}" if d.title else d.text for d in documents]  # what the job encodes under "whole"
    model = SentenceTransformer(resolve("minilm").path, device=device())
    scope = Scope()
    held = scope.open(part(Encoder, "minilm"))  # the job then shares this model rather than load its own
    folder = Path(tempfile.mkdtemp(prefix="regard-encode-"))
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": d.id, "title": d.title, "text": d.text}) + "\n" for d in documents))

    def bare() -> None:
        model.encode(texts, show_progress_bar=False)

    def job() -> None:
        shutil.rmtree(folder / "index", ignore_errors=True)
        report = build_index(corpus, folder / "index", format="jsonl", encoder="minilm", chunker="whole", views=[],
                             progress=False)
        assert report.encoded == len(set(texts)), report

    model.encode(texts[:32], show_progress_bar=False)
    held.encode_passages(texts[:32])
    seconds_bare, seconds_job = alternate(bare, job, options.rounds)
    scope.close()
    shutil.rmtree(folder)
    figures = Figures()
    figures.show("bare SentenceTransformer.encode", len(texts) / median(seconds_bare), "passages/s", digits=1)
    figures.show("indexing job", len(texts) / median(seconds_job), "passages/s", digits=1)
    figures.show("indexing job's speed relative to bare encoding", median(seconds_bare) / median(seconds_job),
                 bar=(">=", 0.9))
    figures.exit()


if __name__ == "__main__":
    main()
