"""A pipeline's life: one version of an index for all stages, refreshing, closing under runs, being forgotten, many
callers."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from regard.indexers import build_index, delete_documents
from regard.indexers.stores import integrity
from regard.indexers.stores.locks import locked
from regard.rag import Batch, Document, Pipeline, Query, Ranking, Stage, models
from regard.rag.dag.scope import Scope
from regard.rag.errors import PipelineError
from regard.rag.models import sharing
from regard.retrievers import BM25, Dense, Fuse


class Echo(Stage):
    """Counts how often it is opened and closed, and refuses to run when it is not open."""

    log: ClassVar[list[str]] = []

    wait: float = 0.0

    def open(self, scope: Scope, /) -> list[str]:
        still = ["open"]

        def close() -> None:
            still.clear()
            self.log.append("close")

        self.log.append("open")
        scope.callback(close)
        return still

    def run(self, still: list[str], queries: Batch[Query]) -> Batch[Query]:
        assert still
        time.sleep(self.wait)
        assert still
        return queries


@pytest.fixture(autouse=True)
def _fresh_log() -> None:
    Echo.log.clear()


def echo(wait: float = 0.0) -> Pipeline:
    p = Pipeline()
    p.output(said=p.add(Echo(wait), p.input(Query)))
    return p


def hybrid(path: Path, encoder: Any, **settings: Any) -> Pipeline:
    p = Pipeline(**settings)
    query = p.input(Query)
    bm25, dense = p.add(BM25(path, k=50), query), p.add(Dense(path, k=50, encoder=encoder), query)
    p.output(both=p.add(Fuse(), bm25, dense), bm25=bm25, dense=dense)
    return p


def add(path: Path, encoder: Any, generation: int, names: range = range(4)) -> None:
    documents = [Document(f"d{i}", f"common words of generation g{generation}") for i in names]
    build_index(documents, path, encoder=encoder, chunker="whole", progress=False)


def generations(ranking: Ranking) -> set[str]:
    return {hit.passage.text.rpartition(" ")[2] for hit in ranking}


# -- one version ---------------------------------------------------------------------


def test_all_stages_read_one_store(hash_encoder: Any, tmp_path: Path) -> None:
    encoder = hash_encoder(8)
    add(tmp_path, encoder, 0)
    with hybrid(tmp_path, encoder) as p, hybrid(tmp_path, encoder) as other:
        result = p.run("common words")
        assert result.bm25.store is result.dense.store is result.both.store
        add(tmp_path, encoder, 1)
        assert generations(p.run("common words").both) == {"g0"}
        assert other.run("common words").bm25.store is not result.bm25.store


def test_a_stage_that_opens_late_reads_what_the_others_do(hash_encoder: Any, tmp_path: Path) -> None:
    """BM25 comes from the cache at first; the index moves on before it is opened."""
    encoder = hash_encoder(8)
    add(tmp_path / "index", encoder, 0)
    p = hybrid(tmp_path / "index", encoder, cache=tmp_path / "cache")
    p.run("common words")
    p.close()
    p.run("common words")  # all from the cache
    add(tmp_path / "index", encoder, 1)
    result = p.run("common generation")
    assert result.bm25.store is result.dense.store
    assert generations(result.both) == {"g0"}
    p.close()
    assert generations(p.run("common generation").both) == {"g1"}


def test_refresh_goes_on_to_the_newest_version(hash_encoder: Any, tmp_path: Path) -> None:
    encoder = hash_encoder(8)
    add(tmp_path, encoder, 0)
    p = hybrid(tmp_path, encoder)
    assert not p.refresh()  # nothing is open
    with p:
        old = p.run("common words").both
        assert not p.refresh()
        add(tmp_path, encoder, 1)
        assert p.refresh()
        assert not p.refresh()
        assert generations(p.run("common words").both) == {"g1"}
        delete_documents(tmp_path, ["d0"])
        assert p.refresh()
        assert len(p.run("common words").both) == 3
        assert generations(old) == {"g0"}  # its store is still that of its time


def test_a_pipeline_that_follows(hash_encoder: Any, tmp_path: Path) -> None:
    encoder = hash_encoder(8)
    add(tmp_path, encoder, 0)
    with hybrid(tmp_path, encoder, follow=True) as p:
        for generation in range(1, 4):
            add(tmp_path, encoder, generation)
            assert generations(p.run("common words").both) == {f"g{generation}"}


def test_models_stay_loaded_over_a_refresh(hash_encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index([Document("a", "some words")], tmp_path, chunker="whole", progress=False)
    p = Pipeline()
    p.output(hits=p.add(Dense(tmp_path), p.input(Query)))
    with p:
        p.run("words")
        build_index([Document("b", "other words")], tmp_path, chunker="whole", progress=False)
        loaded: list[Any] = []
        real = models.acquire

        def watched(key: Any, load: Any) -> Any:
            return real(key, lambda: loaded.append(key) or load())

        monkeypatch.setattr(models, "acquire", watched)
        assert p.refresh()
        assert len(p.run("words").hits) == 2
        assert [key[0] for key in loaded] == ["view"]


def test_beside_a_job_the_last_finished_version_is_read(hash_encoder: Any, tmp_path: Path) -> None:
    encoder = hash_encoder(8)
    add(tmp_path, encoder, 0)
    built = {file: file.stat().st_mtime_ns for file in (tmp_path / "views").rglob("view.json")}
    with locked(tmp_path):
        from regard.indexers.stores.changes import Changes
        from regard.indexers.stores.lance.store import LanceStore
        from regard.indexers.stores.lance.writer import StoreWriter
        from regard.rag import Passage

        writer = StoreWriter(tmp_path, chunker=LanceStore(tmp_path).manifest["chunker"])
        text = "common words of generation g9"
        vectors = {"hash_encoder": encoder.encode_passages([text])}
        writer.commit(Changes([Passage("x", "x", text, 0, len(text))], [b"0" * 16], vectors, []), writer.next_row())
        with hybrid(tmp_path, encoder, follow=True) as p:
            for _ in range(3):
                assert generations(p.run("common words").both) == {"g0"}
        assert {file: file.stat().st_mtime_ns for file in (tmp_path / "views").rglob("view.json")} == built
    with hybrid(tmp_path, encoder) as p:
        assert generations(p.run("common words").both) == {"g0", "g9"}


@pytest.mark.parametrize("searches", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_searches_beside_a_writer(searches: int, hash_encoder: Any, tmp_path: Path) -> None:
    """Every document is rewritten again and again: a result of two versions would hold two generations."""
    encoder = hash_encoder(8)
    add(tmp_path, encoder, 0, range(12))
    stop, errors, seen = threading.Event(), list[BaseException](), set[str]()
    counted = iter(range(searches))

    def write() -> None:
        generation = 1
        while not stop.is_set():
            add(tmp_path, encoder, generation, range(12))
            if generation % 3 == 0:
                delete_documents(tmp_path, [f"d{generation % 12}"])
            generation += 1

    def read(p: Pipeline) -> None:
        try:
            for _ in counted:
                result = p.run("common words")
                found = generations(result.both) | generations(result.bm25) | generations(result.dense)
                assert len(found) == 1, found
                assert len(result.both) >= 11
                seen.update(found)
                if not p.follow:
                    p.close()
        except BaseException as error:
            errors.append(error)

    def guarded(work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            errors.append(error)

    writer = threading.Thread(target=guarded, args=(write,))
    readers = [threading.Thread(target=read, args=(hybrid(tmp_path, encoder, follow=follow),))
               for follow in (True, False)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    writer.join()
    assert not errors, errors
    assert len(seen) > 1  # or nothing was written meanwhile


# -- closing ---------------------------------------------------------------------------


def test_closing_waits_for_the_runs_under_way() -> None:
    p = echo(0.2)
    p.open()
    thread = threading.Thread(target=p.run, args=("a",))
    thread.start()
    time.sleep(0.05)
    p.close()
    assert Echo.log == ["open", "close"]
    assert not thread.is_alive() or thread.join(1) is None
    assert p.run("b").said.text == "b"


def test_a_run_that_starts_while_another_is_being_closed_opens_its_own() -> None:
    p = echo(0.2)
    p.open()
    first, closing = threading.Thread(target=p.run, args=("a",)), threading.Thread(target=p.close)
    first.start()
    time.sleep(0.05)
    closing.start()
    time.sleep(0.05)
    assert p.run("b").said.text == "b"
    first.join()
    closing.join()
    assert Echo.log.count("open") == 2
    p.close()
    assert Echo.log.count("close") == 2


def test_a_run_cannot_close_its_own_pipeline() -> None:
    class Closer(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Query]:
            p.close()
            return queries

    p = Pipeline()
    p.output(said=p.add(Closer(), p.input(Query)))
    with pytest.raises(PipelineError, match="cannot close the pipeline"):
        p.run("a")
    p.close()


def test_many_threads_run_close_and_refresh() -> None:
    p, errors = echo(), list[BaseException]()

    def work(number: int) -> None:
        try:
            for i in range(6):
                if (number + i) % 7 == 0:
                    p.close()
                elif (number + i) % 11 == 0:
                    p.refresh()
                elif (number + i) % 5 == 0:
                    assert [*p.stream(f"{i}")][-1].result.said.text == f"{i}"  # type: ignore[union-attr]  # the last one is RunDone
                else:
                    assert p.run(f"{number} {i}").said.text == f"{number} {i}"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors[:3]
    p.close()
    assert Echo.log.count("open") == Echo.log.count("close") > 1


def test_a_forgotten_pipeline_lets_go_of_what_it_held(hash_encoder: Any, tmp_path: Path) -> None:
    encoder = hash_encoder(8)
    add(tmp_path, encoder, 0)
    gc.collect()
    held, files = dict(sharing._pool), open_files(tmp_path)

    def use() -> None:
        p = hybrid(tmp_path, encoder)
        p.run("common words")
        assert len(sharing._pool) > len(held)

    for _ in range(3):
        use()
    gc.collect()
    assert sharing._pool == held
    assert open_files(tmp_path) == files
    forgotten = echo()
    forgotten.run("a")
    del forgotten
    gc.collect()
    assert Echo.log == ["open", "close"]


def open_files(path: Path) -> list[str]:
    """What this process has open or mapped below ``path``."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    names = []
    for link in links:
        try:
            names.append(str(link.readlink()))
        except OSError:
            continue
    names += [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return sorted(name for name in names if name.startswith(str(path)))


# -- asynchronous callers ----------------------------------------------------------------


def test_sixty_four_runs_are_under_way_at_once() -> None:
    class Meet(Stage):
        barrier: ClassVar[threading.Barrier] = threading.Barrier(64)

        def run(self, queries: Batch[Query]) -> Batch[Query]:
            self.barrier.wait(30)
            return queries

    p = Pipeline()
    p.output(said=p.add(Meet(), p.input(Query)))

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(p.arun(f"q{i}") for i in range(64)))

    assert [result.said.text for result in asyncio.run(all_of_them())] == [f"q{i}" for i in range(64)]


def test_a_cancelled_run_ends_at_its_next_event() -> None:
    p = Pipeline()
    wire = p.input(Query)
    for i in range(20):
        wire = p.add(Echo(0.05 + i / 1000), wire)  # equal stages would open once
    p.output(said=wire)

    async def cancel() -> None:
        task = asyncio.create_task(p.arun("a"))
        await asyncio.sleep(0.12)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    p.close()  # waits for the run
    assert 1 <= Echo.log.count("open") < 10


def test_a_view_that_a_job_removes_while_it_is_looked_at_is_looked_for_again(
    hash_encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(tmp_path, hash_encoder(8), 0)
    real, gone = integrity._Memory._mark, [FileNotFoundError(2, "No such file or directory")]

    def mark(self: Any, name: str, digest: str) -> Any:
        if gone:
            raise gone.pop()
        return real(self, name, digest)

    monkeypatch.setattr(integrity._Memory, "_mark", mark)
    assert len(BM25(tmp_path).apply(["common words"])[0]) == 4
    assert not gone
