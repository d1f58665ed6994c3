"""Cached passages: scores from the view are those of a fresh prefill; the job is resumable; what does not fit is
refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regard.indexers import build_index, delete_documents, verify_index
from regard.indexers.chunkers import Sentences
from regard.indexers.stores.changes import Changes
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.stores.lance.writer import StoreWriter
from regard.indexers.stores.locks import locked
from regard.indexers.views import build_view, fresh_view, load_view, parse_view, view_kinds
from regard.indexers.views.attention import job as attention_job
from regard.indexers.views.attention.layout import Half, Layout, slots
from regard.indexers.views.attention.opening import open_prefills
from regard.indexers.views.attention.shards import CUT, TOKENS
from regard.rag import Document, Passage, PassageList, Query, Ranking
from regard.rag.app.cli import app
from regard.rag.app.doctor import examine
from regard.rag.dag.trace import Running, StageTrace, tracing
from regard.rag.errors import (
    BudgetError,
    ConfigError,
    FingerprintMismatch,
    IndexFormatError,
    IndexNotFound,
    ModelNotFound,
    StageError,
    StorageError,
    UnsupportedModel,
)
from regard.rag.lm import LanguageModel
from regard.rag.lm.passages import Format
from regard.rag.lm.prefill import Prefill
from regard.rag.models import resolve
from regard.rerankers import AttentionReranker, BlockICR
from typer.testing import CliRunner

from ...lms import random_lm

QUERY = Query("how long does a flea live")
FAMILIES = {"Llama": {}, "Gemma3Text": {"query_pre_attn_scalar": 24, "sliding_window": 40,
                                        "layer_types": ["sliding_attention", "full_attention"] * 2}}
TINY_TOKEN = 7 * 2 * 16
"""Numbers a token of the tiny models: keys of four layers, values of three, two KV heads of 16."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return random_lm(tmp_path_factory.mktemp("llama") / "tiny llama v1")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """About 60 tokens of the tiny model a shard."""
    monkeypatch.setattr(attention_job, "SHARD_BYTES", 60 * 4 * TINY_TOKEN)


@pytest.fixture
def prefilled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many passages each prefill from now on computes."""
    counts: list[int] = []
    real = LanguageModel.prefill

    def counted(self: LanguageModel, context: Sequence[int], **settings: Any) -> Prefill:
        counts.append(len(settings.get("blocks", ())))
        return real(self, context, **settings)

    monkeypatch.setattr(LanguageModel, "prefill", counted)
    return counts


def indexed(path: Path, documents: list[Document], view: str) -> LanceStore:
    build_index(documents, path, encoder=None, chunker="whole", views=[view], progress=False)
    return LanceStore(path)


def add_passages(path: Path, texts: list[str]) -> LanceStore:
    """Passages that no chunker would make, straight into the store."""
    store = LanceStore(path)
    passages = [Passage(f"x{i}", f"x{i}", text, 0, len(text)) for i, text in enumerate(texts)]
    with locked(path):
        writer = StoreWriter(path, chunker=store.manifest["chunker"])
        writer.commit(Changes(passages, [b"0" * 16] * len(texts), {}, []), writer.next_row())
    return LanceStore(path)


def ranking_of(store: LanceStore, rows: Sequence[int] | None = None) -> Ranking:
    chosen = store.rows if rows is None else np.asarray(rows, dtype=np.int64)
    return Ranking.ranked(chosen, -np.arange(len(chosen)), "bm25", store)


def reranked(ranking: Ranking, lm: str, cache: Path | None = None, query: Query = QUERY,
             **settings: Any) -> dict[int, float]:
    """The score of each row."""
    settings = {"policy": BlockICR(fusion=None), **settings}
    stage = AttentionReranker(lm, depth=100, device="cpu", cache=str(cache) if cache else "", **settings)
    (result,) = stage.apply([query], [ranking])
    return dict(zip(result.rows.tolist(), result.scores.tolist(), strict=True))


def difference(a: dict[int, float], b: dict[int, float]) -> float:
    assert a.keys() == b.keys()
    return max(abs(a[row] - b[row]) for row in a)


def view_folder(store: LanceStore) -> Path:
    (home,) = (store.path / "views").glob("attention-*")
    return home


def data_files(store: LanceStore) -> dict[int, int]:
    """Inode and size of the data of every shard that the view and an unfinished job hold."""
    stats = [file.stat() for file in view_folder(store).rglob("data.bin")]
    return {stat.st_ino: stat.st_size for stat in stats}


# -- scores ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Iterator[LanguageModel]:
    lm = LanguageModel.acquire("smollm2", device="cpu")
    yield lm
    lm.release()


def test_scores_from_the_cache_are_those_of_a_fresh_prefill(smollm2: LanguageModel, facts: list[Document],
                                                            tmp_path: Path) -> None:
    store = indexed(tmp_path, facts, "attention:smollm2,bits=32")
    ranking = ranking_of(store)
    fresh = reranked(ranking, "smollm2")
    cached = reranked(ranking, "smollm2", tmp_path)
    assert difference(fresh, cached) < 1e-5
    assert max(cached, key=cached.__getitem__) == 0  # the flea
    shuffled = ranking.take(np.random.default_rng(1).permutation(len(ranking)))
    assert reranked(shuffled, "smollm2", tmp_path) == cached  # to the last bit
    fused = {"policy": BlockICR(fusion=0.3)}
    assert difference(reranked(ranking, "smollm2", **fused), reranked(ranking, "smollm2", tmp_path, **fused)) < 1e-5


def test_fewer_bits_score_nearly_the_same(smollm2: LanguageModel, facts: list[Document], tmp_path: Path) -> None:
    store = indexed(tmp_path, facts, "attention:smollm2")
    fresh = reranked(ranking_of(store), "smollm2")
    spread = float(np.std(list(fresh.values())))
    half = reranked(ranking_of(store), "smollm2", tmp_path)
    assert difference(fresh, half) < 0.01 * spread  # 0.002 measured
    whole = sum(data_files(store).values())
    store = indexed(tmp_path / "codes", facts, "attention:smollm2,bits=8")
    codes = reranked(ranking_of(store), "smollm2", tmp_path / "codes")
    assert difference(fresh, codes) < 0.2 * spread  # 0.03 measured
    assert sum(data_files(store).values()) / whole == (64 + 2) / 128


def test_a_stages_fingerprint_follows_its_cache(llama: str, facts: list[Document], tmp_path: Path) -> None:
    prints = set()
    for view in (f"attention:{llama},bits=8", f"attention:{llama}"):  # of two the one with more bits is read
        indexed(tmp_path, facts, view)
        prints.add(AttentionReranker(llama, policy=BlockICR(), cache=str(tmp_path)).fingerprint())
    assert len(prints | {AttentionReranker(llama, policy=BlockICR()).fingerprint()}) == 3


def test_a_view_for_the_shipped_heads(smollm2: LanguageModel, facts: list[Document], tmp_path: Path) -> None:
    store = indexed(tmp_path, facts, "attention:smollm2,bits=32,heads=shipped")
    policy = BlockICR(fusion=None, heads="shipped")
    deepest = max(layer for layer, _ in policy.heads_in("smollm2") or [])
    assert view_kinds(tmp_path)[0].last == deepest
    ranking = ranking_of(store)
    assert difference(reranked(ranking, "smollm2",
                               policy=policy), reranked(ranking, "smollm2", tmp_path, policy=policy)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_and_every_kind_of_passage(family: str, facts: list[Document], tmp_path: Path) -> None:
    lm = random_lm(tmp_path / "model", family, **FAMILIES[family])
    store = indexed(tmp_path / "index", facts, f"attention:{lm},bits=32")
    store = add_passages(tmp_path / "index", ["", "x", "Fleas lay eggs.", "Fleas lay eggs."])
    build_view(store, view_kinds(store.path)[0], progress=False)
    ranking = ranking_of(store)
    fresh, cached = reranked(ranking, lm), reranked(ranking, lm, store.path)
    assert difference(fresh, cached) < 1e-5
    assert len(set(fresh.values())) > 5
    again = ranking_of(store, [0, 0, 3])
    assert difference(reranked(again, lm), reranked(again, lm, store.path)) < 1e-5
    assert reranked(ranking_of(store, []), lm, store.path) == {}


def test_a_passage_that_does_not_fit_the_window_is_cut_and_counted(llama: str, tmp_path: Path) -> None:
    sentence = "A flea jumps over the dog again and again. "
    store = indexed(tmp_path, [Document("long", sentence * 12), Document("short", "Fleas jump.")],
                    f"attention:{llama},bits=32")
    view = open_prefills(str(tmp_path), llama, Format(), 3)
    table = np.concatenate([shard.table for shard in view._shards])
    assert table[:, CUT].tolist() == [1, 0]
    lm = LanguageModel.acquire(llama, device="cpu")
    try:
        prefill, spans = view.prefill(ranking_of(store))
        shown = lm.text(prefill.plan.ids[slice(*spans[0])])
        assert shown.startswith("[1] A flea")
        assert shown.endswith("again.")  # at a sentence's end
        assert spans[0][1] - spans[0][0] <= 256 - len(Format().prefix(lm)) - 1 - 128
    finally:
        lm.release()
    with tracing(Running(StageTrace("attention", "AttentionReranker"))) as now:
        cached = reranked(ranking_of(store), llama, tmp_path)
    assert now.entry.notes["passages_cut"] == 1
    assert difference(cached, reranked(ranking_of(store), llama)) < 1e-5  # cut alike when it is not stored
    with pytest.raises(BudgetError, match=r"the query leaves \d+ tokens for a passage, and stored ones are longer"):
        reranked(ranking_of(store), llama, tmp_path, query=Query("flea " * 150))


def large_keys_in_bfloat16(model: Any) -> None:
    model.model.layers[0].self_attn.k_proj.weight.data *= 1e6
    model.to(torch.bfloat16)


def test_a_bfloat16_checkpoint_is_stored_in_bfloat16(facts: list[Document], tmp_path: Path) -> None:
    """Its numbers may be beyond float16's."""
    name = random_lm(tmp_path / "model", change=large_keys_in_bfloat16)
    store = indexed(tmp_path / "index", facts, f"attention:{name}")
    view = open_prefills(str(store.path), name, Format(), 3)
    stored, _ = view.prefill(ranking_of(store))
    lm = LanguageModel.acquire(name, device="cpu")
    try:
        exact = lm.prefill(stored.plan.ids, blocks=stored.plan.blocks, mask="block", positions="shared", last=0).keys[0]
    finally:
        lm.release()
    assert exact.abs().max() > 1e5  # float16 ends at 65,504
    assert stored.keys[0].dtype == torch.bfloat16
    assert ((stored.keys[0].float() - exact).abs() <= exact.abs() * 2 ** -8).all()
    assert view.layout.token_bytes == TINY_TOKEN * 2
    assert np.isfinite(list(reranked(ranking_of(store), name, store.path).values())).all()


LONGROPE = {"hidden_size": 64, "original_max_position_embeddings": 200, "rope_parameters": {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 200,
    "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}}


def test_what_a_longer_prompt_would_turn_otherwise_is_not_stored(facts: list[Document], tmp_path: Path) -> None:
    """Longrope: keys hold in prompts up to 200 positions only, so that a passage leaves room for a query there."""
    name = random_lm(tmp_path / "model", "Phi3", **LONGROPE)
    long = Document("long", "A flea jumps over the dog again and again. " * 30)
    store = indexed(tmp_path / "index", [*facts, long], f"attention:{name},bits=32")
    view = open_prefills(str(store.path), name, Format(), 3)
    table = np.concatenate([shard.table for shard in view._shards])
    assert table[:, CUT].tolist() == [0] * 8 + [1]
    assert table[:, TOKENS].max() + len(view._prefix.ids) <= 200 - 100
    few = ranking_of(store, store.rows[:8])
    assert difference(reranked(few, name), reranked(few, name, store.path)) < 1e-5
    prefill, _ = view.prefill(few)
    lm = LanguageModel.acquire(name, device="cpu")
    try:
        with pytest.raises(BudgetError, match="at most 200 positions cannot go on to 2"):
            lm.attention_mass(prefill, [[5] * (201 - prefill.plan.after)])
    finally:
        lm.release()


def test_a_model_whose_keys_are_not_what_its_configuration_says(facts: list[Document], tmp_path: Path) -> None:
    """JetMoe repeats keys and values for each expert."""
    name = random_lm(tmp_path / "model", "JetMoe", num_local_experts=2, num_experts_per_tok=2, kv_channels=16)
    with pytest.raises(UnsupportedModel, match=r"keys of layer 0 have 4 heads of 16 components.* says 2 of"):
        indexed(tmp_path / "index", facts, f"attention:{name}")


def test_a_view_of_the_lower_layers_serves_only_these(llama: str, facts: list[Document], tmp_path: Path) -> None:
    store = indexed(tmp_path, facts, f"attention:{llama},bits=32,last=2")
    policy = BlockICR(heads="0-2,1-1", fusion=None)
    ranking = ranking_of(store)
    assert difference(reranked(ranking, llama, policy=policy), reranked(ranking, llama, tmp_path, policy=policy)) < 1e-5
    prefill, _ = open_prefills(str(tmp_path), llama, Format(), 1).prefill(ranking)
    assert (len(prefill.keys), len(prefill.values), prefill.complete) == (2, 1, False)
    with pytest.raises(FingerprintMismatch, match=r"(?s)'layers': 3.*'layers': 4.*store more layers"):
        reranked(ranking, llama, tmp_path)


# -- refusals ----------------------------------------------------------------------


def test_what_was_made_otherwise_is_refused(llama: str, facts: list[Document], tmp_path: Path) -> None:
    store = indexed(tmp_path / "index", facts, f"attention:{llama}")
    ranking = ranking_of(store)
    for settings in ({"max_words": 200}, {"turn": ("user: ", "\nassistant: ")}):
        with pytest.raises(FingerprintMismatch, match=r"(?s)stored:.*wanted:.*without cache"):
            reranked(ranking, llama, store.path, **settings)
    other = random_lm(tmp_path / "other", seed=1)
    with pytest.raises(IndexNotFound, match=r"(?s)no view attention:.*it has: attention:.*tiny llama"):
        reranked(ranking, other, store.path)
    copied = shutil.copytree(llama, tmp_path / "copy")
    # the same weights by another name
    assert reranked(ranking, str(copied), store.path) == reranked(ranking, llama, store.path)
    shutil.copytree(llama, tmp_path / "revised")
    revised = indexed(tmp_path / "index2", facts, f"attention:{tmp_path / 'revised'},bits=32")
    random_lm(tmp_path / "revised", seed=1)
    with pytest.raises(FingerprintMismatch,
                       match=r"(?s)stored:.*weights.*wanted:.*weights.*make it anew: regard index"):
        reranked(ranking_of(revised), str(tmp_path / "revised"), revised.path)
    build_view(revised, view_kinds(revised.path)[0], progress=False)
    assert difference(reranked(ranking_of(revised), str(tmp_path / "revised"),
                               revised.path), reranked(ranking, other)) < 1e-5


def test_a_view_in_an_older_format_is_refused_and_made_anew(
    llama: str, facts: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It cut long passages elsewhere."""
    with monkeypatch.context() as patch:
        patch.setattr(attention_job, "FORMAT", attention_job.FORMAT - 1)
        store = indexed(tmp_path, facts, f"attention:{llama},bits=32")
    with pytest.raises(FingerprintMismatch, match="make it anew: regard index"):
        reranked(ranking_of(store), llama, tmp_path)
    build_view(store, view_kinds(store.path)[0], progress=False)
    assert difference(reranked(ranking_of(store), llama), reranked(ranking_of(store), llama, tmp_path)) < 1e-5


def test_a_ranking_of_another_store_is_refused(llama: str, facts: list[Document], tmp_path: Path) -> None:
    store = indexed(tmp_path / "a", facts, f"attention:{llama}")
    view = open_prefills(str(store.path), llama, Format(), 3)
    copy = LanceStore(shutil.copytree(store.path, tmp_path / "b"))
    in_memory = PassageList(store.passages(store.rows))
    for other in (copy, in_memory):
        with pytest.raises(StageError, match="rank and rerank with one index"):
            view.prefill(replace(ranking_of(store), store=other))
    link = tmp_path / "link"
    link.symlink_to(store.path)
    view.prefill(replace(ranking_of(store), store=LanceStore(link)))
    shutil.rmtree(store.path)
    anew = indexed(tmp_path / "a", facts, f"attention:{llama}")
    with pytest.raises(StageError, match="rank and rerank with one index"):
        view.prefill(ranking_of(anew))


def test_an_index_without_the_view_or_without_text(llama: str, facts: list[Document], tmp_path: Path,
                                                   hash_encoder: Any) -> None:
    store = indexed(tmp_path / "a", facts, "bm25")
    with pytest.raises(IndexNotFound, match=r"add it: regard index --index .* --view attention:smollm2"):
        open_prefills(str(store.path), "smollm2", Format(), 3)
    with pytest.raises(ConfigError, match=r"attention:.* needs the passages' text"):
        build_index(facts, tmp_path / "b", encoder=hash_encoder(8), text=False, views=[f"attention:{llama}"],
                    progress=False)
    assert not (tmp_path / "b").exists()


def test_names_of_attention_views(llama: str, tmp_path: Path) -> None:
    for name in ("attention:smollm2,last=29", "attention:smollm2,bits=8,last=15", "attention:smollm2,bits=32,last=0"):
        assert str(parse_view(name)) == name
    assert str(parse_view("attention:smollm2,bits=16")) == "attention:smollm2,last=18"  # as deep as the heads that ship
    assert str(parse_view(f"attention:{llama}")) == f"attention:{llama},last=3"  # none ship: all layers
    for name in ("attention:smollm2,bits=4", "attention:smollm2,last=30", "attention:smollm2,last=-2",
                 "attention:smollm2,k1=2"):
        with pytest.raises(ConfigError,
                           match=r"bits: Input should be|has no layer 30|last: Input should be|no setting 'k1'"):
            parse_view(name)
    with pytest.raises(ConfigError, match="lm: it must be given"):
        parse_view("attention:")
    with pytest.raises(ModelNotFound):
        parse_view(f"attention:{tmp_path}/none")
    slugs = {parse_view(f"attention:{model}").folders()[0] for model in (llama, llama + "/", "smollm2")}
    assert len(slugs) == 3
    assert all("/" not in slug and " " not in slug for slug in slugs)


def test_a_head_set_says_which_layers_a_view_needs(llama: str, tmp_path: Path) -> None:
    from regard.rag.lm.heads import HeadSet
    from regard.rag.models import weights_hash

    table = [[0.1] * 4, [0.9] * 4, [0.8] * 4, [0.0] * 4]
    intervals = [[[mean, mean] for mean in row] for row in table]
    found = HeadSet(llama, weights_hash(resolve(llama)), {}, {"ndcg": table}, {"ndcg": intervals})
    found.save(tmp_path / "heads.json")
    assert str(parse_view(f"attention:{llama},heads={tmp_path / 'heads.json'}")) == f"attention:{llama},last=2"
    with pytest.raises(ConfigError, match="not on these weights"):
        parse_view(f"attention:smollm2,heads={tmp_path / 'heads.json'}")


# -- the job -----------------------------------------------------------------------


def test_an_index_that_grew_is_extended_and_until_then_refused(
    llama: str, facts: list[Document], tmp_path: Path, prefilled: list[int], small_shards: None,
) -> None:
    store = indexed(tmp_path, facts[:5], f"attention:{llama},bits=32")
    before = data_files(store)
    assert sum(prefilled) == 5
    assert len(before) > 1
    grown = add_passages(tmp_path, ["A late passage.", "Another one."])
    with pytest.raises(StageError,
                       match=r"(?s)2 of the ranking's 7 passages are not in the view of 5.*regard index --index"):
        reranked(ranking_of(grown), llama, tmp_path)
    old = reranked(ranking_of(store), llama, tmp_path)
    prefilled.clear()
    build_view(grown, view_kinds(tmp_path)[0], progress=False)
    assert sum(prefilled) == 2
    assert before.items() <= data_files(grown).items()
    assert difference(reranked(ranking_of(grown), llama), reranked(ranking_of(grown), llama, tmp_path)) < 1e-5
    assert reranked(ranking_of(store), llama, tmp_path) == old
    prefilled.clear()
    build_view(grown, view_kinds(tmp_path)[0], progress=False)
    assert prefilled == []


def test_deleted_passages_vanish_from_the_view(
    llama: str, facts: list[Document], tmp_path: Path, prefilled: list[int], small_shards: None,
) -> None:
    store = indexed(tmp_path, facts, f"attention:{llama},bits=32")
    prefilled.clear()
    assert delete_documents(tmp_path, ["moon", "heart"]).passages == 2
    assert prefilled == []
    rest = LanceStore(tmp_path)
    view = open_prefills(str(tmp_path), llama, Format(), 3)
    assert sorted(view.rows.tolist()) == sorted(rest.rows.tolist())
    assert sum(data_files(rest).values()) == sum(int(s.table[:, TOKENS].sum()) for s in view._shards) * 4 * TINY_TOKEN
    assert difference(reranked(ranking_of(rest), llama), reranked(ranking_of(rest), llama, tmp_path)) < 1e-5
    with pytest.raises(StageError, match="2 of the ranking's 8 passages"):
        view.prefill(ranking_of(store))


KILLED = """
import os, signal, sys
from regard.indexers import build_index
from regard.indexers.views.attention import job as attention_job
attention_job.SHARD_BYTES = {bytes}
real, calls = os.fsync, []
def fsync(descriptor):
    calls.append(descriptor)
    if len(calls) > {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
build_index(None, {index!r}, encoder=None, views=[{view!r}], progress=False)
"""


def test_a_killed_job_goes_on_after_its_last_committed_shard(
    llama: str, facts: list[Document], tmp_path: Path, prefilled: list[int], small_shards: None,
) -> None:
    store = indexed(tmp_path, facts, "bm25")
    view = f"attention:{llama},bits=32"
    # in the third shard's files
    code = KILLED.format(bytes=attention_job.SHARD_BYTES, calls=2 * 6 + 5, index=str(tmp_path), view=view)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (pending,) = view_folder(store).glob("pending-*")
    committed = data_files(store)
    assert len(list(pending.glob("0*"))) == 2
    assert len(list(pending.glob("new-*"))) == 1
    rows = np.concatenate([np.load(file)[:, 0] for file in pending.glob("0*/passages.npy")])
    assert list(map(str, view_kinds(tmp_path))) == ["bm25"]  # half a view is none
    build_index(None, tmp_path, encoder=None, views=[view], progress=False)
    assert sum(prefilled) == len(store) - len(rows)
    assert {file.stat().st_ino for file in view_folder(store).rglob("0000000[01]/data.bin")} <= committed.keys()
    assert not list(view_folder(store).glob("pending-*"))
    assert difference(reranked(ranking_of(store), llama), reranked(ranking_of(store), llama, tmp_path)) < 1e-5


def test_a_disk_that_fills_up_keeps_what_is_committed(
    llama: str, facts: list[Document], tmp_path: Path, prefilled: list[int], small_shards: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = indexed(tmp_path, facts, "bm25")
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2 * 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError,
                           match=r"(?s)everything committed before is safe: .*No space left.*goes on where it stopped"):
            build_view(store, parse_view(f"attention:{llama}"), progress=False)
    (pending,) = view_folder(store).glob("pending-*")
    assert sorted(f.name for f in pending.iterdir()) == ["00000000", "00000001"]
    kept = sum(len(np.load(file)) for file in pending.glob("0*/passages.npy"))
    prefilled.clear()
    build_view(store, parse_view(f"attention:{llama}"), progress=False)
    assert sum(prefilled) == len(store) - kept


def test_a_view_that_cannot_fit_is_refused_before_it_starts_and_doctor_warns(
    llama: str, facts: list[Document], tmp_path: Path, prefilled: list[int], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = indexed(tmp_path, facts, "bm25")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
        with pytest.raises(StorageError,
                           match=r"(?s)needs [\d.]+ kB for 8 passages, and 50 kB are free.*bits=8: [\d.]+ kB.*heads="):
            build_index(None, tmp_path, encoder=None, views=[f"attention:{llama}"])
        assert sum(prefilled) == 0
        (finding,) = examine(tmp_path)["views"]
        assert not finding["ok"]
        assert "50 kB free" in finding["detail"]
        assert "bits=8" in finding["hint"]
    said = capsys.readouterr().err
    assert f"attention:{llama},last=3: 448 bytes a token" in said
    assert "8 passages" in said
    build_view(store, parse_view(f"attention:{llama}"), progress=False)
    (finding,) = examine(tmp_path)["views"]
    assert finding["ok"]
    assert "to come" not in finding["detail"]
    whole = int(json.loads((view_folder(store) / "footprint.json").read_text())["bytes"])
    assert whole == sum(data_files(store).values())
    add_passages(tmp_path, ["More of it."] * 8)
    (finding,) = examine(tmp_path)["views"]
    assert "to come" in finding["detail"]  # the index has grown


def test_the_footprint_is_what_the_view_takes(
    llama: str, facts: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = indexed(tmp_path, facts, "bm25")
    said: list[str] = []
    monkeypatch.setattr(attention_job, "_announce", said.append)
    build_view(store, parse_view(f"attention:{llama},bits=8"))
    tokens = sum(data_files(store).values()) // (7 * 2 * (16 + 2))
    assert said == [f"attention:{llama},bits=8,last=3: 252 bytes a token, {tokens / 8 * 252 / 1000:.3g} kB a passage "
                    f"({tokens / 8:.0f} tokens), {tokens * 252 / 1000:.3g} kB for 8 passages"]
    said.clear()
    monkeypatch.setattr(attention_job, "_SAMPLE", 3)
    build_view(store, parse_view(f"attention:{llama}"))
    assert "(about " in said[0]


def test_a_damaged_shard_is_refused_and_mended(
    llama: str, facts: list[Document], tmp_path: Path, prefilled: list[int], small_shards: None,
) -> None:
    store = indexed(tmp_path, facts, f"attention:{llama},bits=32")
    scores = reranked(ranking_of(store), llama, tmp_path)
    (file,) = view_folder(store).rglob("00000001/data.bin")
    lost = len(np.load(file.parent / "passages.npy"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IndexFormatError, match=r"(?s)data.bin is damaged.*regard verify"):
        open_prefills(str(tmp_path), llama, Format(), 3)
    prefilled.clear()
    build_view(store, view_kinds(tmp_path)[0], progress=False)
    assert sum(prefilled) == lost
    assert reranked(ranking_of(store), llama, tmp_path) == pytest.approx(scores, abs=1e-5)


def test_an_empty_index(llama: str, facts: list[Document], tmp_path: Path) -> None:
    store = indexed(tmp_path, facts[:1], f"attention:{llama}")
    delete_documents(tmp_path, [facts[0].id])
    view = open_prefills(str(tmp_path), llama, Format(), 3)
    prefill, spans = view.prefill(ranking_of(LanceStore(tmp_path)))
    assert (len(prefill.plan.ids), spans) == (len(view._prefix.ids), [])
    with pytest.raises(StageError, match="1 of the ranking's 1 passages"):
        view.prefill(ranking_of(store))


def test_the_command_line_builds_the_view(llama: str, facts: list[Document], tmp_path: Path) -> None:
    store = indexed(tmp_path, facts, "bm25")
    command = ["index", "--index", str(tmp_path), "--encoder", "none", "--view", f"attention:{llama}"]
    done = subprocess.run([sys.executable, "-m", "regard.rag.app.cli", *command], check=True, capture_output=True,
                          text=True)
    assert "448 bytes a token" in done.stderr
    assert f"attention:{llama}" in done.stdout.replace("\n", "")
    view = load_view(fresh_view(store, parse_view(f"attention:{llama}")))
    assert len(view.rows) == 8
    shown = CliRunner().invoke(app, ["doctor", "--index", str(tmp_path)], catch_exceptions=False)
    assert "on disk" in shown.stdout


# -- bytes -------------------------------------------------------------------------


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("bits", [32, 16, 8])
def test_what_is_unpacked_is_what_was_packed(bits: int, half: Half) -> None:
    layout = Layout(layers=3, kv_heads=2, head_dim=16, bits=bits, half=half)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 20, 16, generator=generator) * 10 ** layer for layer in range(3)]
    tensors[1][:, 7] = 0
    prefill = Prefill(None, tensors, [-t for t in tensors[:2]])  # type: ignore[arg-type]  # the plan is not looked at
    spans = [(4, 5), (5, 17), (17, 20)]
    data = layout.packed(prefill, spans)
    assert len(data) == 16 * layout.token_bytes
    for wanted in (slots(3), slots(2)):
        at = 0
        for start, stop in spans:
            size = (stop - start) * layout.token_bytes
            into = torch.full((wanted, 2, stop - start, 16), torch.nan)
            layout.unpack(data[at:at + size], into)
            at += size
            for slot in range(wanted):
                exact = (prefill.values if slot % 2 else prefill.keys)[slot // 2][:, start:stop]
                bound = {32: 0.0 * exact.abs(), 16: exact.abs() * (2 ** -11 if half == "float16" else 2 ** -8) + 1e-7,
                         8: exact.abs().amax(-1, keepdim=True).expand_as(exact) * (0.5 / 127 + 2 ** -10) + 1e-7}[bits]
                assert ((into[slot] - exact).abs() <= bound).all()


def test_numbers_beyond_the_bits_are_refused() -> None:
    layout = Layout(layers=1, kv_heads=1, head_dim=4, bits=16)
    huge = Prefill(None, [torch.full((1, 2, 4), 7e4)])  # type: ignore[arg-type]  # the plan is not looked at
    with pytest.raises(StageError, match=r"(?s)keys of layer 0.*bits=32"):
        layout.packed(huge, [(0, 2)])
    assert replace(layout, bits=32).packed(huge, [(0, 2)]).view(np.float32).tolist() == [7e4] * 8
    into = replace(layout, half="bfloat16").room_for(1, 2)
    replace(layout, half="bfloat16").unpack(replace(layout, half="bfloat16").packed(huge, [(0, 2)]), into)
    assert into.float().sub(7e4).abs().max() <= 7e4 * 2 ** -8


def test_chunked_passages_are_cached_too(llama: str, tmp_path: Path) -> None:
    text = " ".join(f"Sentence number {i} speaks of fleas." for i in range(12))
    build_index([Document("d", text, "Fleas")], tmp_path, encoder=None, chunker="sentences:20,overlap=5",
                views=[f"attention:{llama},bits=32"], progress=False)
    store = LanceStore(tmp_path)
    assert len(store) == len(Sentences(20, overlap=5).chunk(Document("d", text, "Fleas"))) > 2
    assert difference(reranked(ranking_of(store), llama), reranked(ranking_of(store), llama, tmp_path)) < 1e-5


def test_a_row_of_another_history_is_never_taken_for_its_own(llama: str, facts: list[Document], tmp_path: Path) -> None:
    index, backup = tmp_path / "index", tmp_path / "backup"
    indexed(index, facts[:3], f"attention:{llama},bits=32")
    shutil.copytree(index / "passages.lance", backup)
    indexed(index, facts[3:5], f"attention:{llama},bits=32")
    shutil.rmtree(index / "passages.lance")
    shutil.copytree(backup, index / "passages.lance")
    # brings the view up to date
    build_index(facts[5:7], index, encoder=None, chunker="whole", views=[], progress=False)
    store = LanceStore(index)
    ranking = ranking_of(store)
    assert difference(reranked(ranking, llama), reranked(ranking, llama, index)) < 1e-5
    shutil.rmtree(index / "passages.lance")
    shutil.copytree(backup, index / "passages.lance")
    add_passages(index, ["Not what the view holds under this row.", "Nor this."])
    with pytest.raises(StageError, match="no longer those that the view was made of"):
        reranked(ranking_of(LanceStore(index)), llama, index)


def test_what_another_history_shares_is_not_computed_again(
    llama: str, facts: list[Document], tmp_path: Path, prefilled: list[int],
) -> None:
    index, backup = tmp_path / "index", tmp_path / "backup"
    indexed(index, facts[:3], f"attention:{llama}")
    shutil.copytree(index / "passages.lance", backup)
    indexed(index, facts[3:5], f"attention:{llama}")
    shutil.rmtree(index / "passages.lance")
    shutil.copytree(backup, index / "passages.lance")
    before = len(prefilled)
    indexed(index, facts[5:8], f"attention:{llama}")
    assert sum(prefilled[before:]) == 3


def test_a_repair_loads_no_model_that_only_the_index_names(
    llama: str, facts: list[Document], tmp_path: Path, prefilled: list[int], monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = indexed(tmp_path, facts[:3], f"attention:{llama}")
    for file in view_folder(store).rglob("data.bin"):
        file.write_bytes(file.read_bytes()[:-1])
    before = len(prefilled)
    with monkeypatch.context() as others:
        others.setattr("regard.rag.models.chosen.is_chosen", lambda model: False)
        report = verify_index(tmp_path, repair=True, progress=False)
    assert any("could not be built anew: the index names" in done for done in report.repaired)
    assert len(prefilled) == before
    assert not report.ok
    assert verify_index(tmp_path, repair=True, progress=False).ok
    assert len(prefilled) > before
