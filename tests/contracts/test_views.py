"""What every view kind promises, for every kind of the table: ours, and those that another distribution brings
(``tests/third_party``)."""

from __future__ import annotations

import gc
import json
import math
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regard.indexers import build_index, compact, delete_documents, verify_index
from regard.indexers.stores import integrity
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views import (
    HNSW,
    ViewKind,
    build_view,
    built_view,
    files,
    fresh_view,
    home_of,
    load_view,
    newest_versions,
    parse_view,
    view_kinds,
)
from regard.indexers.views.kind import stored_kind
from regard.rag import Batch, Document, Query
from regard.rag.app.cli import app
from regard.rag.app.doctor import examine
from regard.rag.dag.scope import Scope
from regard.rag.errors import ConfigError, IndexFormatError, IndexNotFound, StageError, StorageError
from regard.rag.parts import part, plain
from regard.retrievers import Dense
from typer.testing import CliRunner

from ..lms import random_lm

KINDS = ViewKind.table().names()
EXAMPLES = {"attention": ("attention:{lm},bits=32", "attention:{lm},bits=8")}
"""Two settings of kinds whose defaults, and whose numbers one higher, will not do."""
SIZE, K = 16, 10
DOCUMENTS = [Document(f"d{i}", f"common word{i % 9} unique{i} " + "filler " * (i % 5), metadata={"i": i})
             for i in range(120)]


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random language model with SmolLM2's tokenizer."""
    return random_lm(tmp_path_factory.mktemp("lm") / "tiny", num_hidden_layers=2)


class Case:
    """A kind, with an index of ``documents`` that has a view of it, an encoder, and queries."""

    def __init__(self, name: str, lm: str, path: Path, encoder: Any) -> None:
        self.path, self.encoder = path, encoder
        self.text = EXAMPLES.get(name, (name,))[0].format(lm=lm)
        self.kind = parse_view(self.text, "hash_encoder")
        self.other = parse_view(EXAMPLES[name][1].format(lm=lm)) if name in EXAMPLES else other_settings(self.kind)

    def index(self, documents: list[Document], views: list[Any] | None = None) -> LanceStore:
        encoder = self.encoder if self.kind.column else None
        build_index(documents, self.path, encoder=encoder, chunker="whole",
                    views=[self.kind] if views is None else views, progress=False)
        return LanceStore(self.path)

    @property
    def asked(self) -> Any:
        texts = [f"unique{i} word{i % 7} filler" for i in range(0, 120, 6)]
        return texts if self.kind.queries == "texts" else self.encoder.encode_queries(texts)

    def found(self, store: LanceStore, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        return self.opened(store).search(self.asked, K, allowed)

    def opened(self, store: LanceStore) -> Any:
        return load_view(fresh_view(store, self.kind))

    def folder(self) -> Path:
        return built_view(self.path, self.kind).folder


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, hash_encoder: Any) -> Case:
    lm = request.getfixturevalue("tiny_lm") if request.param in EXAMPLES else ""
    return Case(request.param, lm, tmp_path / "index", hash_encoder(SIZE))


def other_settings(kind: ViewKind) -> ViewKind | None:
    """The kind with a number one higher or half as large; None where it has none."""
    for name, value in kind.settings().items():
        for changed in (value + 1, value / 2) if type(value) in (int, float) else ():
            try:
                return kind.replace(**{name: changed})
            except ConfigError:
                continue
    return None


every = pytest.mark.parametrize("case", KINDS, indirect=True)


# -- against brute force ----------------------------------------------------------------


def scores_of(case: Case, store: LanceStore) -> np.ndarray:
    """The score of every passage, in the store's order, in double precision; minus infinity where it is no hit."""
    if case.kind.queries == "vectors":
        return case.asked.astype(np.float64) @ np.concatenate([*store.vectors("hash_encoder")]).astype(np.float64).T
    words = [re.findall(r"\w\w+", text) for block in store.texts() for text in block]
    mean, frequency = np.mean([len(w) for w in words]), Counter(word for passage in words for word in set(passage))
    counts = [Counter(passage) for passage in words]
    made = np.zeros((len(case.asked), len(words)))
    for q, text in enumerate(case.asked):
        for word in text.split():
            idf = math.log(1 + (len(words) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            for p, count in enumerate(counts):
                norm = case.kind.k1 * (1 - case.kind.b + case.kind.b * len(words[p]) / mean)
                made[q, p] += idf * count[word] / (count[word] + norm)
    return np.where(made > 0, made, -np.inf)


def expect_best(case: Case, store: LanceStore, allowed: np.ndarray | None = None) -> None:
    """What is found is what comparing all finds; by an approximate kind, four fifths of it."""
    rows, scores = case.found(store, allowed)
    exact = scores_of(case, store)
    held = np.ones(len(store.rows), bool) if allowed is None else np.isin(store.rows, allowed)
    exact[:, ~held] = -np.inf
    exact = exact.round(6)  # equal scores are equal: what float32 makes of them is not compared
    best = np.lexsort((np.broadcast_to(store.rows, exact.shape), -exact), axis=1)[:, :K]
    wanted = np.where(np.isneginf(np.take_along_axis(exact, best, axis=1)), -1, store.rows[best])
    width = min(K, int(held.sum()))
    assert rows.shape == scores.shape
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    assert (np.diff(scores, axis=1) <= 0).all() or np.isneginf(scores).any()
    hits = [[row for row in some if row >= 0] for some in rows.tolist()]
    right = [[row for row in some if row >= 0] for some in wanted[:, :width].tolist()]
    if not case.kind.exact:
        recall = [len(set(a) & set(b)) / max(len(b), 1) for a, b in zip(hits, right, strict=True)]
        assert np.mean(recall) >= 0.8  # of random vectors, which have no clusters
        assert all(store.rows[held].__contains__(row) for some in hits for row in some)
        return
    assert [len(some) for some in hits] == [len(some) for some in right]
    position = {row: i for i, row in enumerate(store.rows.tolist())}
    for q, some in enumerate(hits):
        said = [exact[q, position[row]] for row in some]
        assert said == pytest.approx([exact[q, position[row]] for row in right[q]], abs=2e-6)
        assert scores[q, :len(some)].tolist() == pytest.approx(said, abs=1e-5)


@every
def test_a_search_finds_what_comparing_every_passage_finds(case: Case) -> None:
    store = case.index(DOCUMENTS)
    if case.kind.queries is None:
        assert sorted(case.opened(store).rows.tolist()) == sorted(store.rows.tolist())
        return
    expect_best(case, store)
    expect_best(case, store, np.sort(np.random.default_rng(0).choice(store.rows, 40, replace=False)))
    expect_best(case, store, store.rows[[5, 80, 3]])
    rows, _ = case.found(store, store.rows[:0])
    assert not (rows >= 0).any()


# -- a corpus that changes ------------------------------------------------------------------


@every
def test_a_view_that_followed_its_corpus_finds_what_one_built_anew_finds(case: Case) -> None:
    case.index(DOCUMENTS[:70])
    store = case.index(DOCUMENTS)
    followed = case.opened(store)
    home = case.folder().parent
    if case.kind.queries is not None:
        expect_best(case, store)
        rows, scores = case.found(store)
    shutil.rmtree(home)
    build_view(store, case.kind, progress=False)
    assert sorted(followed.rows.tolist()) == sorted(case.opened(store).rows.tolist()) == sorted(store.rows.tolist())
    if case.kind.queries is not None and case.kind.exact:
        again_rows, again_scores = case.found(store)
        assert np.array_equal(rows, again_rows)
        assert np.array_equal(scores, again_scores)


@every
def test_deleted_passages_never_come_back(case: Case) -> None:
    store = case.index(DOCUMENTS)
    gone = store.rows[[i for i, name in enumerate(store.document_ids(store.rows)) if int(name[1:]) % 3 == 0]]
    delete_documents(case.path, [f"d{i}" for i in range(0, 120, 3)])
    for step in (lambda: None, lambda: compact(case.path), lambda: case.index(DOCUMENTS),
                 lambda: case.index([Document("d1", "another unique1"), Document("late", "word1 late")])):
        step()
        rest = LanceStore(case.path)
        view = case.opened(rest)
        assert not np.isin(view.rows, gone).any()
        assert sorted(view.rows.tolist()) == sorted(rest.rows.tolist())
        if case.kind.queries is not None:
            assert not np.isin(case.found(rest)[0], gone).any()
            expect_best(case, rest)


# -- on disk ---------------------------------------------------------------------------


@every
def test_every_damaged_file_is_a_typed_error_and_mended(case: Case) -> None:
    store = case.index(DOCUMENTS[:40])
    whole = {file.relative_to(case.folder()): file.read_bytes() for file in case.folder().rglob("*") if file.is_file()}
    for name, content in whole.items():
        integrity._remembered.clear()
        shutil.rmtree(integrity.cache_dir(), ignore_errors=True)
        file = case.folder() / name
        file.unlink()  # it may have another name, in an older version
        file.write_bytes(bytes(reversed(content)) if len(set(content)) > 1 else content + b"x")
        with pytest.raises(IndexFormatError) as caught:
            load_view(built_view(case.path, case.kind))
        assert "regard verify" in str(caught.value) or "regard index" in str(caught.value)
        assert not verify_index(case.path, progress=False).ok
        report = verify_index(case.path, repair=True, progress=False)
        assert report.ok, report
        assert report.repaired
        assert sorted(case.opened(store).rows.tolist()) == sorted(store.rows.tolist())


@every
def test_a_build_that_is_stopped_leaves_nothing_half(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    store = case.index(DOCUMENTS[:30], views=[])

    def stopped(folder: Path, known: Any) -> Any:
        assert any(folder.iterdir())  # all of its files are there
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "describe_files", stopped)
        with pytest.raises(KeyboardInterrupt):
            build_view(store, case.kind, progress=False)
    home = home_of(case.path, case.kind)
    assert not [f for f in home.iterdir() if f.name.isdigit() or f.name.startswith("new-")]
    with pytest.raises(IndexNotFound, match="no view"):
        built_view(case.path, case.kind)
    build_view(store, case.kind, progress=False)
    assert sorted(f.name for f in home.glob("*/")) == [str(store.version)]


@every
def test_two_settings_of_a_kind_live_side_by_side(case: Case) -> None:
    if case.other is None:
        pytest.skip("it has no number to set")
    store = case.index(DOCUMENTS[:40])
    first = (case.folder() / "view.json").read_bytes()
    build_view(store, case.other, progress=False)
    assert (case.folder() / "view.json").read_bytes() == first
    both = [case.kind, case.other]
    for step in (lambda: case.index(DOCUMENTS[:60], views=[]), lambda: delete_documents(case.path, ["d1"]),
                 lambda: compact(case.path),
                 lambda: compact(case.path, purge=True)):
        step()
        store = LanceStore(case.path)
        assert sorted(view_kinds(case.path), key=str) == sorted(both, key=str)
        assert {version.meta["commit"] for version in newest_versions(case.path)} == {store.commit}
        assert verify_index(case.path, progress=False).ok
        for kind in both:
            assert built_view(case.path, kind).kind == kind
            assert sorted(load_view(built_view(case.path, kind)).rows.tolist()) == sorted(store.rows.tolist())
    assert all(finding["ok"] for finding in examine(case.path)["views"])


@every
def test_a_kind_is_one_thing_as_text_as_plain_values_and_on_disk(case: Case) -> None:
    case.index(DOCUMENTS[:5])
    for kind in filter(None, (case.kind, case.other)):
        assert parse_view(str(kind)) == stored_kind(plain(kind)) == kind
        assert part(ViewKind, json.loads(json.dumps(plain(kind)))) == kind
    assert built_view(case.path, case.text, "hash_encoder").kind == case.kind
    assert json.loads((case.folder().parent / "spec.json").read_bytes())["spec"] == plain(case.kind)


@every
def test_what_a_kind_is_made_of_must_be_there(case: Case) -> None:
    if case.kind.column:
        missing = case.kind.replace(encoder="other")
        with pytest.raises(IndexNotFound, match="no vectors of 'other'"):
            build_view(case.index(DOCUMENTS[:3], views=[]), missing)
    if case.kind.needs_text:
        build_index(DOCUMENTS[:3], case.path, encoder=case.encoder, chunker="whole", text=False, views=[],
                    progress=False)
        with pytest.raises(StageError, match="stores none"):
            build_view(LanceStore(case.path), case.kind)


@every
def test_an_index_without_passages_has_views_too(case: Case) -> None:
    case.index(DOCUMENTS[:2])
    delete_documents(case.path, ["d0", "d1"])
    view = case.opened(LanceStore(case.path))
    assert view.rows.tolist() == []
    if case.kind.queries is not None:
        assert not (view.search(case.asked, K)[0] >= 0).any()


@every
def test_threads_open_it_together(case: Case) -> None:
    """Before Python 3.11.8, ``ast``, which reads numpy's headers, fails where a garbage collection lets another thread
    in: here every collection does, and there are many."""
    version = fresh_view(case.index(DOCUMENTS[:20]), case.kind)
    errors: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(10):
                load_view(version)
        except BaseException as error:
            errors.append(error)

    def nap(phase: str, info: object) -> None:
        time.sleep(1e-6)

    load_view(version)  # what is imported then is imported by one thread
    before = gc.get_threshold()
    gc.callbacks.append(nap)
    try:
        gc.set_threshold(20, 1000, 1000)
        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(nap)
    assert not errors, errors


@every
def test_a_full_disk_leaves_the_view_that_was_there(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.index(DOCUMENTS[:30])
    folder, views = case.folder(), home_of(case.path, case.kind)
    with monkeypatch.context() as patched:  # the job's commit succeeds, and its view cannot be written

        def full(folder: Path, known: Any) -> Any:
            raise OSError(28, "No space left on device")

        patched.setattr(files, "describe_files", full)
        with pytest.raises(StorageError, match="cannot be written"):
            case.index(DOCUMENTS[:40])
    assert built_view(case.path, case.kind).folder == folder
    assert not list(views.glob("new-*"))
    store = LanceStore(case.path)
    assert sorted(case.opened(store).rows.tolist()) == sorted(store.rows.tolist())
    assert not folder.exists()


# -- another distribution's kind ------------------------------------------------------------


def test_another_distributions_kind_is_a_kind_like_ours(tmp_path: Path, hash_encoder: Any) -> None:
    assert "exact" in KINDS
    lines = Path(__file__).parents[1].joinpath("third_party", "acme_views.py").read_text().splitlines()
    assert len(lines) < 40
    encoder = hash_encoder(SIZE)
    build_index(DOCUMENTS, tmp_path, encoder=encoder, chunker="whole", views=["exact", "flat", "bm25"], progress=False)
    assert [str(kind) for kind in view_kinds(tmp_path)] == ["bm25", "exact:hash_encoder", "flat:hash_encoder"]
    queries = Batch([Query("word3 unique7"), Query("common", filters={"i": {"lt": 20}})])
    rankings = []
    for view in ("exact", "flat"):
        stage = Dense(tmp_path, k=5, encoder=encoder, view=view)
        with Scope() as scope:
            rankings.append(stage.run(stage.open(scope), queries))
    for ours, theirs in zip(*rankings, strict=True):
        assert ours.rows.tolist() == theirs.rows.tolist()
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-6)


# -- several settings -----------------------------------------------------------------------


@pytest.fixture
def swept(tmp_path: Path, hash_encoder: Any) -> Callable[[str], Any]:
    """An index with views ``hnsw:m=16`` and ``hnsw:m=64``; gives the kind that ``Dense`` takes for a text."""
    encoder = hash_encoder(SIZE)
    build_index(DOCUMENTS, tmp_path, encoder=encoder, chunker="whole", views=["hnsw:m=16", "hnsw:m=64"], progress=False)

    def taken(view: str) -> Any:
        stage = Dense(tmp_path, encoder=encoder, view=view)
        with Scope() as scope:
            return str(stage.open(scope).searched.version.kind)

    return taken


def test_dense_takes_the_view_that_it_names(swept: Callable[[str], Any], tmp_path: Path) -> None:
    assert swept("hnsw:m=16") == swept("faiss:hnsw,m=16") == "hnsw:16,encoder=hash_encoder"
    assert swept("hnsw:64") == "hnsw:64,encoder=hash_encoder"
    with pytest.raises(ConfigError,
                       match=r"one of 2 of this index: hnsw:16,encoder=hash_encoder, hnsw:64,encoder=hash_encoder"):
        swept("hnsw")
    for missing in ("hnsw:m=8", "hnsw:m=32", "hnsw:32", "faiss:hnsw,m=32", "hnsw:m=16,ef_search=9"):
        with pytest.raises(IndexNotFound,
                           match=r"view is hnsw:16,encoder=hash_encoder, hnsw:64,encoder=hash_encoder, not hnsw"):
            swept(missing)
    build_view(LanceStore(tmp_path), HNSW(encoder="hash_encoder"))
    assert swept("hnsw") == swept("hnsw:m=32") == "hnsw:encoder=hash_encoder"


def test_a_sweep_rebuilds_nothing_under_other_readers(swept: Callable[[str],
                                                                      Any], tmp_path: Path, hash_encoder: Any) -> None:
    described = {file: file.read_bytes() for file in tmp_path.rglob("view.json")}
    build_index(None, tmp_path, encoder=hash_encoder(SIZE), views=["hnsw:m=8", "hnsw:m=16,ef_search=7"], progress=False)
    assert described.items() <= {file: file.read_bytes() for file in tmp_path.rglob("view.json")}.items()
    assert len(list(tmp_path.rglob("view.json"))) == len(described) + 2
    assert swept("hnsw:m=16,ef_search=128") == "hnsw:16,encoder=hash_encoder"


def test_the_command_builds_both_and_brings_both_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for i in range(5):
        (tmp_path / "docs" / f"{i}.txt").write_text(f"text number {i}")
    index = str(tmp_path / "index")
    run = CliRunner()
    command = ["index", str(tmp_path / "docs"), "--index", index, "--encoder", "none"]
    assert run.invoke(app, [*command, "--view", "bm25:k1=1.5", "--view", "bm25:b=0.7"]).exit_code == 0
    (tmp_path / "docs" / "late.txt").write_text("latecomer")
    assert run.invoke(app, command).exit_code == 0
    store = LanceStore(index)
    built = {str(version.kind): version.meta["commit"] for version in newest_versions(Path(index))}
    assert built == {"bm25:1.5": store.commit, "bm25:b=0.7": store.commit}
    assert run.invoke(app, ["verify", index]).exit_code == run.invoke(app, ["compact", index]).exit_code == 0


# -- indexes of older releases ----------------------------------------------------------------


def as_written_before(home: Path, old: str, spec: dict[str, Any]) -> None:
    """Put the view in ``home`` where, and describe it as, the code before view kinds were parts did."""
    assert "part" in json.loads((home / "spec.json").read_bytes())["spec"]
    (home / "spec.json").write_text(json.dumps(integrity.sealed({"spec": spec}, "spec.json")))
    for file in home.glob("*/view.json"):
        meta = json.loads(file.read_bytes())
        del meta["digest"]
        file.write_text(json.dumps(integrity.sealed({**meta, "spec": spec}, "view.json")))
    home.rename(home.with_name(old))


def test_views_of_older_releases_are_found_and_used_as_they_are(
    tmp_path: Path, hash_encoder: Any, tiny_lm: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = hash_encoder(SIZE)
    texts = ["flat", "hnsw:m=16", "ivf:lists=7,probes=7", "bm25:k1=1.2", f"attention:{tiny_lm},bits=8"]
    build_index(DOCUMENTS[:40], tmp_path, encoder=encoder, chunker="whole", views=texts, progress=False)
    kinds = [parse_view(text, "hash_encoder") for text in texts]
    specs = [
        ("faiss-flat-hash_encoder", {"kind": "faiss:flat", "encoder": "hash_encoder", "parameters": {}}),
        ("faiss-hnsw-hash_encoder", {"kind": "faiss:hnsw", "encoder": "hash_encoder",
                                     "parameters": {"m": 16.0, "ef_construction": 200, "ef_search": 128}}),
        ("faiss-ivf-hash_encoder",
         {"kind": "faiss:ivf", "encoder": "hash_encoder", "parameters": {"lists": 7.0, "probes": 7.0}}),
        ("bm25", {"kind": "bm25", "encoder": "", "parameters": {"k1": 1.2, "b": 0.4}}),
        (kinds[4].folders()[0], {"kind": "attention", "encoder": tiny_lm, "parameters": {"bits": 8, "last": 1}}),
    ]
    for kind, (old, spec) in zip(kinds, specs, strict=True):
        as_written_before(home_of(tmp_path, kind), old, spec)
        assert home_of(tmp_path, kind).name == old
    described = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("view.json")}
    for kind in kinds:
        monkeypatch.setattr(type(kind), "build", lambda *_: pytest.fail("a view was built"))
    assert sorted(map(str, view_kinds(tmp_path))) == sorted(map(str, kinds))
    for text, kind in zip(("flat", "faiss:hnsw", "faiss:ivf,lists=7", "bm25", texts[4]), kinds, strict=True):
        assert fresh_view(LanceStore(tmp_path), text, "hash_encoder").kind == kind
    assert build_index(None, tmp_path, encoder=encoder, views=texts, progress=False).views == [str(v.kind) for v in
                                                                                            newest_versions(tmp_path)]
    assert verify_index(tmp_path, progress=False).ok
    assert {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("view.json")} == described
    compact(tmp_path)  # carried over, in the old folders
    assert {home.name for home in (tmp_path / "views").iterdir()} == {old for old, _ in specs}
    monkeypatch.undo()
    for kind in kinds:  # a damaged description: its spec.json says what to build
        file = built_view(tmp_path, kind).folder / "view.json"
        file.write_bytes(b"{")
        assert fresh_view(LanceStore(tmp_path), kind).folder == file.parent


def test_the_usual_view_goes_beside_one_that_an_older_release_gave_other_settings(
    tmp_path: Path, hash_encoder: Any,
) -> None:
    build_index(DOCUMENTS[:40], tmp_path, encoder=hash_encoder(SIZE), chunker="whole", views=["hnsw:m=16"],
                progress=False)
    parameters = {"m": 16.0, "ef_construction": 200, "ef_search": 128}
    as_written_before(home_of(tmp_path, HNSW(16, encoder="hash_encoder")), "faiss-hnsw-hash_encoder",
                      {"kind": "faiss:hnsw", "encoder": "hash_encoder", "parameters": parameters})
    build_index(None, tmp_path, encoder=hash_encoder(SIZE), views=["hnsw"], progress=False)
    usual = HNSW(encoder="hash_encoder")
    assert home_of(tmp_path, usual).name == usual.folders()[1]
    assert built_view(tmp_path, "hnsw", "hash_encoder").kind == usual
    assert built_view(tmp_path, "hnsw:m=16", "hash_encoder").folder.parent.name == "faiss-hnsw-hash_encoder"


@pytest.mark.parametrize("spec", [
    None, [], 5, {}, {"part": 5}, {"part": "nothing"}, {"part": "hnsw", "m": "many"}, {"part": "hnsw", "self": 1},
    {"part": "os:system"},
    {"kind": "faiss:hnsw"}, {"kind": "hsnw", "encoder": "", "parameters": {}},
    {"kind": 5, "encoder": "", "parameters": {}},
    {"kind": "bm25", "encoder": "", "parameters": {"k1": "x"}}, {"kind": "bm25", "encoder": "", "parameters": 5},
    {"kind": "attention", "encoder": 5, "parameters": {}}, {"part": "attention"},
])
def test_a_description_that_names_no_kind_is_none(spec: Any) -> None:
    assert stored_kind(spec) is None
