"""A process that has imported everything and started nothing; each job is done by a fork of it, with a fault or
without.

Run as ``python -P worker.py FAULTS.so`` with the tests' folders on the path; a line of JSON on standard input is a job,
a line on standard output its result. Lance's threads start at its first use, and a fork has none of its parent's: so
the parent never uses it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

import bm25s
import faiss
import lance
import numba
import numpy as np
import pyarrow as pa
import torch
import transformers
from conftest import HashEncoder
from regard.indexers import build_index, compact, delete_documents
from regard.indexers.stores.integrity import Digest
from regard.indexers.stores.lance.digests import Ledger
from regard.indexers.stores.lance.store import DATASET, LanceStore
from regard.indexers.views import view_kinds
from regard.indexers.views.attention import job as attention_job
from regard.indexers.views.files import built_view, fresh_view, load_view
from regard.rag import Document, Ranking
from regard.rag.errors import RegardError
from regard.rag.lm import LanguageModel
from regard.rerankers import AttentionReranker, BlockICR

WARM = (bm25s, faiss, lance, numba, pa, torch, transformers)
MODES = {"count": 0, "kill": 1, "halfway": 2, "full": 3}
WORDS = ["flea", "moon", "bread", "volcano", "heart", "bridge", "honey", "yeast", "river", "stone", "lamp", "cloud"]


class Second(HashEncoder):
    name = "second"


def documents(first: int, last: int, edited: str = "") -> list[Document]:
    return [Document(f"d{i}", f"{WORDS[i % 12]} {WORDS[(i * 5 + 1) % 12]} number {i}{edited}", f"title {i}", {"n": i})
            for i in range(first, last)]


def build(made: Any, path: Path, encoder: Any = None, views: Any = ()) -> None:
    build_index(made, path, encoder=encoder, chunker="whole", views=list(views), shard_passages=4, progress=False)


def first(path: Path, view: str = "") -> None:
    build(documents(0, 8), path, HashEncoder(8), [view] if view else [])


def without_encoder(path: Path, view: str = "") -> None:
    build(documents(0, 8), path)


def append(path: Path, view: str = "") -> None:
    build(documents(0, 14), path, HashEncoder(8))


def update(path: Path, view: str = "") -> None:
    build([*documents(0, 3, " edited"), *documents(3, 10)], path, HashEncoder(8))


def delete(path: Path, view: str = "") -> None:
    delete_documents(path, ["d1", "d6", "d7"])


def add_encoder(path: Path, view: str = "") -> None:
    build_index(None, path, encoder=Second(8, salt="second"), views=[], progress=False)


def add_view(path: Path, view: str = "") -> None:
    build_index(None, path, encoder=HashEncoder(8), views=[view], progress=False)


def grown(path: Path, view: str = "") -> None:
    """Some fragments and versions, with deletions."""
    first(path, view)
    update(path)
    delete_documents(path, ["d5"])


def compacted(path: Path, view: str = "") -> None:
    compact(path)


def purged(path: Path, view: str = "") -> None:
    delete_documents(path, ["d1", "d6", "d7"], purge=True)


def nothing(path: Path, view: str = "") -> None: ...


def only_empty(path: Path, view: str = "") -> None:
    """An index that holds no passage."""
    build([Document("empty", " ")], path)


def model(path: Path, view: str = "") -> None:
    """A tiny language model in the folder ``path``, which this process then holds in memory."""
    from lms import random_lm

    random_lm(path)
    LanguageModel.acquire(str(path), attention=True)


ACTIONS = {action.__name__: action for action in
           (first, without_encoder, grown, compacted, purged, append, update, delete, add_encoder, add_view, nothing,
            only_empty, model)}


def state(path: Path) -> dict[str, Any]:
    """What the index holds and finds. Row numbers are left out: a killed job may leave a gap in them."""
    store = LanceStore(path)
    table = store._dataset.to_table().to_pylist()
    rows = [record.pop("row") for record in table]
    assert len(set(rows)) == len(rows)
    found = {str(spec): search(store, spec) for spec in view_kinds(path)}
    return {"passages": sorted(repr(record) for record in table), "encoders": store.encoders, "found": found}


def search(store: LanceStore, spec: Any) -> list[Any]:
    if spec.model:
        ranking = Ranking.ranked(store.rows, -np.arange(len(store)), "bm25", store)
        stage = AttentionReranker(spec.model, depth=100, device="cpu", cache=str(store.path),
                                  policy=BlockICR(fusion=None))
        (result,) = stage.apply(["flea moon"], [ranking])
        scores = dict(zip((p.id for p in store.passages(result.rows)), result.scores.tolist(), strict=True))
        return sorted((name, round(score, 4)) for name, score in scores.items())
    opened = load_view(fresh_view(store, built_view(store.path, spec).kind))
    query = HashEncoder(8).encode_passages(["flea moon"]) if spec.queries == "vectors" else ["flea moon"]
    rows, scores = opened.search(query, 5)
    found = rows[0] >= 0
    return sorted((p.id, round(float(s), 5))
                  for p, s in zip(store.passages(rows[0][found]), scores[0][found], strict=True))


def held(path: Path) -> dict[str, list[str]]:
    """The committed texts of each document, for a look at an index between a fault and the rerun; none where there is
    no index."""
    if not (path / DATASET).exists():
        return {}
    texts: dict[str, list[str]] = {}
    store = LanceStore(path)
    for passage in store.passages(store.rows):
        texts.setdefault(passage.document_id, []).append(passage.text)
    return texts


def uncovered(path: Path) -> list[str]:
    """Files of the newest version whose digest is not noted, or is another."""
    folder, dataset = path / DATASET, LanceStore(path)._dataset
    noted = Ledger(folder).digests()
    live = []
    for fragment in dataset.get_fragments():
        live += [f"data/{file.path}" for file in fragment.data_files()]
        deletions = fragment.metadata.deletion_file
        live += [deletions.path(fragment.fragment_id)] if deletions else []
    return [name for name in live if noted.get(name) != Digest.of(folder / name)]


LOOKS = {look.__name__: look for look in (state, held, uncovered)}


def perform(job: dict[str, Any], faults: Any) -> dict[str, Any]:
    """Do ``act`` on the index at ``path``; looks that are asked for ``before`` and ``after`` it.

    With a ``mode`` calls under ``folder`` are counted, or are the death of this at the ``n``-th, or find no room after
    ``n`` bytes; ``file_limit`` is the most bytes that a file may have. ``environment``: variables.
    """
    path, view = Path(job["path"]), job.get("view", "")
    seen = {name: LOOKS[name](path) for name in job.get("before", ())}
    os.environ.update(job.get("environment", {}))
    if "file_limit" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], resource.RLIM_INFINITY))
    if "mode" in job:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if "log" in job else -1
        refused = faults.arm(job["folder"].encode(), MODES[job["mode"]], ctypes.c_long(job.get("n", 0)), log)
        if refused:
            raise OSError(refused, "the faults cannot be armed")
    ACTIONS[job["act"]](path, view)
    seen |= {name: LOOKS[name](path) for name in job.get("after", ())}
    return seen | ({"counted": faults.counted()} if "mode" in job else {})


def outcome(job: dict[str, Any], faults: Any) -> dict[str, Any]:
    try:
        return {"result": perform(job, faults)}
    except RegardError as error:
        return {"error": type(error).__name__, "says": str(error), "hint": bool(error.hint)}
    except BaseException as error:
        return {"error": type(error).__name__, "says": traceback.format_exc(), "raw": True}


def forked(job: dict[str, Any], faults: Any) -> dict[str, Any]:
    """The outcome of ``job`` in a process of its own; ``{"killed": signal}`` where it died."""
    if job["act"] == "model":
        return outcome(job, faults)  # for all forks to come
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        answer = json.dumps(outcome(job, faults), default=str).encode()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"killed": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else json.loads(answer)


def warm_up() -> None:
    """What a fork would otherwise compile for itself."""
    index = bm25s.BM25(method="lucene", backend="numba")
    index.index([["flea", "moon"], ["moon"], ["bread"]], show_progress=False)
    index.retrieve([["flea"]], k=1, show_progress=False)
    index.retrieve([["flea"]], k=1, show_progress=False, weight_mask=np.ones(3, np.float32))


def main() -> None:
    attention_job.SHARD_BYTES = 60 * 4 * 4 * 7 * 2 * 16  # some sixty tokens of the tiny model
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    warm_up()
    faults = ctypes.CDLL(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line), faults)), file=out, flush=True)


if __name__ == "__main__":
    main()
