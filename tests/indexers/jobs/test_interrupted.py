"""Jobs that are stopped: how often they commit, what Ctrl-C says and keeps, and what a search then says."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.indexers import build_index
from regard.indexers.jobs import pace
from regard.indexers.jobs.columns import encode_existing
from regard.indexers.jobs.pace import Pace
from regard.indexers.stores import unfinished
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.stores.lance.writer import StoreWriter
from regard.indexers.stores.locks import locked
from regard.rag import Document, Pipeline, Query
from regard.rag.app.cli import app
from regard.rag.errors import CorpusError, FingerprintMismatch, Interrupted, PipelineError
from regard.retrievers import BM25, Dense
from typer.testing import CliRunner


class Clock:
    """Time that passes only when something takes it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "clock", made)
    return made


@pytest.fixture
def commits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """When the job committed, and how many passages."""
    made: list[tuple[float, int]] = []
    original = StoreWriter.commit

    def commit(self: StoreWriter, shard: Any, first_row: int) -> None:
        made.append((clock.now, len(shard.passages)))
        original(self, shard, first_row)

    monkeypatch.setattr(StoreWriter, "commit", commit)
    return made


def _slow(hash_encoder: Any, clock: Clock, seconds: float) -> Any:
    """An encoder that takes ``seconds`` a text, and remembers how many texts each call had."""

    class Slow(hash_encoder):  # type: ignore[misc]  # a fixture
        calls = []  # noqa: RUF012  # one class a test

        def encode_passages(self, texts: Any) -> Any:
            self.calls.append(len(texts))
            clock.now += seconds * len(texts)
            return super().encode_passages(texts)

    return Slow(4)


def _documents(n: int) -> list[Document]:
    return [Document(f"d{i}", f"text number {i}") for i in range(n)]


def _build(documents: Any, path: Path, encoder: Any, **more: Any) -> Any:
    return build_index(documents, path, encoder=encoder, chunker="whole", progress=False, **more)


def _vectors(path: Path) -> tuple[list[str], bytes]:
    store = LanceStore(path)
    vectors = np.concatenate([*store.vectors("hash_encoder")])
    return [p.id for p in store.passages(store.rows)], vectors.tobytes()


# -- commits by the clock ---------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, 0.3, 0.09, 0.03, 0.001])
def test_work_is_committed_every_thirty_seconds(
    seconds: float, tmp_path: Path, clock: Clock, commits: list[tuple[float, int]], hash_encoder: Any,
) -> None:
    """30 passages a commit or 30,000: a shard of 2,048 passages took 2,048, 614, 184, 61 and 2 seconds before anything
    was kept."""
    _build(_documents(700), tmp_path / "i", _slow(hash_encoder, clock, seconds), views=[])
    times = [0.0, *(when for when, _ in commits)]
    assert max(b - a for a, b in pairwise(times)) <= 30
    assert sum(n for _, n in commits) == 700
    assert len(commits) <= 2 + 2.2 * 700 * seconds / 30  # and not much more often
    _build(_documents(700), tmp_path / "at-once", hash_encoder(4), views=[])
    assert _vectors(tmp_path / "i") == _vectors(tmp_path / "at-once")


def test_a_corpus_that_is_slow_to_read_is_committed_in_time(
    tmp_path: Path, clock: Clock, commits: list[tuple[float, int]], hash_encoder: Any,
) -> None:
    def slowly() -> Iterator[Document]:
        for document in _documents(40):
            clock.now += 4
            yield document

    _build(slowly(), tmp_path, _slow(hash_encoder, clock, 0.01), views=[])
    times = [0.0, *(when for when, _ in commits)]
    assert max(b - a for a, b in pairwise(times)) <= 38.5  # the first and the last take 4 seconds to come
    assert sum(n for _, n in commits) == 40


def test_nothing_is_hurried_by_what_is_unchanged(tmp_path: Path, clock: Clock, commits: list[tuple[float, int]],
                                                 hash_encoder: Any) -> None:
    _build(_documents(50), tmp_path, _slow(hash_encoder, clock, 0), views=[])
    del commits[:]

    def slowly() -> Iterator[Document]:
        for document in _documents(60):
            clock.now += 1.16 if int(document.id[1:]) < 50 else 0.5
            yield document

    encoder = _slow(hash_encoder, clock, 0)
    _build(slowly(), tmp_path, encoder, views=[])
    # 58 seconds of reading did not split the ten new documents
    assert (encoder.calls, [n for _, n in commits]) == ([10], [10])


def test_a_fast_encoder_gets_whole_blocks(tmp_path: Path, clock: Clock, commits: list[tuple[float, int]],
                                          hash_encoder: Any) -> None:
    encoder = _slow(hash_encoder, clock, 0.02)
    _build(_documents(2500), tmp_path, encoder, views=[])
    assert encoder.calls == [16, 48, *[256] * 9, 132]
    assert [n for _, n in commits] == [64 + 5 * 256, 4 * 256 + 132]
    at_leisure = _slow(hash_encoder, clock, 0)
    _build(_documents(2500), tmp_path / "at-leisure", at_leisure, views=[])
    assert at_leisure.calls == encoder.calls  # the clock does not decide what is encoded together
    assert [n for _, n in commits][2:] == [64 + 7 * 256, 2 * 256 + 132]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.integers(1, 300)), min_size=1, max_size=12))
def test_blocks_are_powers_of_two_that_fit_the_time(blocks: list[tuple[float, int]]) -> None:
    clock, before = Clock(), pace.clock
    pace.clock = clock
    try:
        one = Pace(30.0)
        assert one.block == 16
        for number, (each, passages) in enumerate(blocks):
            clock.now += each * passages
            one.encoded(passages, each * passages)
            one.encoded(0, 9.0)  # a block of which everything was known
            if number == 0:
                assert one.block == 48
            else:
                assert one.block in {2 ** i for i in range(9)}
                assert one.block * each <= 22.5 + 1e-9
                assert one.block == 256 or 2 * one.block * each > 22.5 - 1e-9
            assert one.due == (clock.now + one.block * each >= 30)
    finally:
        pace.clock = before


def test_an_added_encoder_is_kept_every_thirty_seconds(tmp_path: Path, clock: Clock, hash_encoder: Any,
                                                       monkeypatch: Any) -> None:
    from regard.indexers.stores.lance.pending import LancePending

    _build(_documents(300), tmp_path, None, views=[])
    times, original = [0.0], LancePending.append

    def append(self: Any, vectors: Any) -> None:
        times.append(clock.now)
        original(self, vectors)

    monkeypatch.setattr(LancePending, "append", append)
    encoder = _slow(hash_encoder, clock, 0.5)
    with locked(tmp_path):
        writer = StoreWriter(tmp_path, chunker=LanceStore(tmp_path).manifest["chunker"])
        encode_existing(writer, "hash_encoder", encoder.description(), encoder, progress=False, commit_seconds=30)
    assert max(b - a for a, b in pairwise(times)) <= 30
    assert encoder.encoded == 300
    store = LanceStore(tmp_path)
    expected = hash_encoder(4).encode_passages([p.full_text for p in store.passages(store.rows)])
    assert np.array_equal(np.concatenate([*store.vectors("hash_encoder")]), expected)


def test_what_is_known_says_nothing_of_the_encoders_speed(
    tmp_path: Path, clock: Clock, commits: list[tuple[float, int]], hash_encoder: Any,
) -> None:
    """A block of vectors that the store has takes no time; the next one is no larger for that."""
    _build(_documents(400), tmp_path, _slow(hash_encoder, clock, 0.5), views=[])
    del commits[:]
    begun, encoder = clock.now, _slow(hash_encoder, clock, 0.5)
    retitled = [Document(d.id, d.text, metadata={"edited": True}) for d in _documents(200)]
    report = _build([*retitled, *(Document(f"n{i}", f"new text {i}") for i in range(200))], tmp_path, encoder, views=[])
    assert (report.reused, report.encoded) == (200, 200)
    times = [begun, *(when for when, _ in commits)]
    assert max(b - a for a, b in pairwise(times)) <= 30


# -- Ctrl-C -----------------------------------------------------------------------------

LISTENS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""A shell that starts the tests in the background has its children ignore SIGINT, and Python then leaves it so."""

SLOW = LISTENS + """
import sys, time
sys.path.insert(0, {tests!r})
from conftest import HashEncoder
from regard.indexers import build_index
from regard.rag import Document
class Slow(HashEncoder):
    def encode_passages(self, texts):
        time.sleep(0.005 * len(texts))
        made = super().encode_passages(texts)
        print(len(texts), flush=True)
        return made
build_index([Document(f"d{{i}}", f"text number {{i}}") for i in range(400)], sys.argv[1],
            encoder=Slow(4), chunker="whole", progress=False)
"""


def _sentence(text: str) -> tuple[int, int]:
    found = re.search(r"([\d,]+) passages of ([\d,]+) documents are committed", text)
    assert found, text
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))

def test_after_a_real_interrupt_the_index_holds_what_was_said_and_nothing_is_encoded_twice(
    tmp_path: Path, hash_encoder: Any,
) -> None:
    code, path = SLOW.format(tests=str(Path(__file__).parents[2])), tmp_path / "i"
    job = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
    assert job.stdout is not None
    first = [int(job.stdout.readline()) for _ in range(2)]
    time.sleep(0.3)  # the third block, of 256, takes 1.3 seconds: the signal comes in the middle of it
    job.send_signal(signal.SIGINT)
    _, error = job.communicate()
    assert "Interrupted" in error
    assert _sentence(error) == (sum(first), sum(first))
    assert len(LanceStore(path)) == sum(first)  # what was encoded, and none of the block that was lost
    encoder = hash_encoder(4)
    report = _build(_documents(400), path, encoder)
    assert (encoder.encoded, report.added, report.unchanged) == (400 - sum(first), 400 - sum(first), sum(first))
    store = LanceStore(path)
    assert {p.document_id: p.text for p in store.passages(store.rows)} == {d.id: d.text for d in _documents(400)}
    assert len(store) == 400
    assert not (path / unfinished.FILE).exists()


def test_ctrl_c_on_the_command_line_is_one_sentence_and_exit_code_130(tmp_path: Path) -> None:
    """The corpus is a pipe that stays open, so that the job is sure to be in the middle of its work."""
    lines = [json.dumps({"_id": f"d{i}", "text": f"text number {i}"}) + "\n" for i in range(3000)]
    os.mkfifo(tmp_path / "corpus")
    command = [sys.executable, "-c", f"{LISTENS}from regard.rag.app.cli import main; main()", "index",
               str(tmp_path / "corpus"),
               "--format", "jsonl", "--encoder", "none", "--chunker", "whole", "--index", str(tmp_path / "i")]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with (tmp_path / "corpus").open("w") as pipe:
        pipe.writelines(lines)
        pipe.flush()
        while not (tmp_path / "i" / "passages.lance").exists() or not len(LanceStore(tmp_path / "i")):
            time.sleep(0.05)
        time.sleep(0.5)
        job.send_signal(signal.SIGINT)
        out, error = job.communicate()
    assert (job.returncode, out, error.count("\n")) == (130, "", 1), error
    assert error.startswith("interrupted: ")
    assert "the same command goes on from there" in error
    held = len(LanceStore(tmp_path / "i"))
    assert _sentence(error) == (held, held)
    assert held > 2048
    # a search then says what to do, and doing it completes the index
    again = ["index", str(tmp_path / "corpus"), "--index", str(tmp_path / "i"),
             "--format", "jsonl", "--encoder", "none", "--chunker", "whole"]
    with pytest.raises(PipelineError, match=f"rerun the job, it goes on where it stopped: regard {' '.join(again)}"):
        CliRunner().invoke(app, ["search", str(tmp_path / "i"), "text"], catch_exceptions=False)
    (tmp_path / "corpus").unlink()
    (tmp_path / "corpus").write_text("".join(lines))
    report = json.loads(CliRunner().invoke(app, [*again, "--json"], catch_exceptions=False).stdout)
    assert (report["added"], report["unchanged"], report["total_passages"]) == (3000 - held, held, 3000)


def test_an_interrupt_before_the_first_commit_says_so(tmp_path: Path, hash_encoder: Any) -> None:
    def stops() -> Iterator[Document]:
        yield Document("a", "x")
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"^0 passages of 0 documents are committed"):
        _build(stops(), tmp_path, hash_encoder(4))

    def never() -> Iterator[Document]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        _build(never(), tmp_path / "none", hash_encoder(4))


def test_an_interrupt_in_a_commit_writes_nothing_twice(tmp_path: Path, hash_encoder: Any,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    original = StoreWriter.commit

    def interrupted(self: StoreWriter, shard: Any, first_row: int) -> None:
        original(self, shard, first_row)
        raise KeyboardInterrupt

    monkeypatch.setattr(StoreWriter, "commit", interrupted)
    with pytest.raises(Interrupted, match=r"^64 passages of 64 documents"):
        _build(_documents(300), tmp_path, hash_encoder(4), shard_passages=100)
    monkeypatch.undo()
    _build(_documents(300), tmp_path, hash_encoder(4))
    assert len(LanceStore(tmp_path)) == 300


def test_replacements_survive_an_interrupt(tmp_path: Path, hash_encoder: Any) -> None:
    """A changed document is there once, old or new, and a rerun has them all."""
    _build(_documents(100), tmp_path, hash_encoder(4))
    changed = [Document(d.id, d.text + " changed") for d in _documents(100)]

    def stops() -> Iterator[Document]:
        yield from changed[:50]
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"^100 passages of 100 documents"):
        _build(stops(), tmp_path, hash_encoder(4))
    store = LanceStore(tmp_path)
    assert sum("changed" in p.text for p in store.passages(store.rows)) == 16
    report = _build(changed, tmp_path, hash_encoder(4))
    assert (report.unchanged, report.updated) == (16, 84)


# -- searching an index whose job was interrupted ---------------------------------------


def _problems(*stages: Any) -> str:
    p = Pipeline()
    query = p.input(Query)
    p.output(**{f"hits{i}": p.add(stage, query) for i, stage in enumerate(stages)})
    return "\n".join(map(str, p.check()))


def _interrupted(path: Path, encoder: Any, documents: list[Document], **more: Any) -> None:
    def stops() -> Iterator[Document]:
        yield from documents
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        _build(stops(), path, encoder, **more)


def test_a_first_job_that_was_interrupted_is_named(tmp_path: Path, hash_encoder: Any) -> None:
    encoder = hash_encoder(4)
    _interrupted(tmp_path, encoder, _documents(20))
    found = _problems(BM25(tmp_path), Dense(tmp_path, encoder=encoder))
    assert found.count("the job that was to build it was interrupted") == 2
    assert found.count("rerun the job") == 2
    p = Pipeline()
    p.output(hits=p.add(BM25(tmp_path), p.input(Query)))
    with pytest.raises(PipelineError, match="rerun the job"):
        p.run("text")
    # which the job was not to build
    assert "rerun" not in _problems(Dense(tmp_path, encoder=encoder, view="faiss:hnsw"))
    with locked(tmp_path):
        assert "is not built yet: a job is working on this index" in _problems(BM25(tmp_path))
    _build(_documents(30), tmp_path, encoder)
    assert _problems(BM25(tmp_path), Dense(tmp_path, encoder=encoder)) == ""


def test_a_later_job_that_was_interrupted_is_a_warning(tmp_path: Path, hash_encoder: Any,
                                                       caplog: pytest.LogCaptureFixture) -> None:
    _build(_documents(10), tmp_path, hash_encoder(4))
    _interrupted(tmp_path, hash_encoder(4),
                 [*_documents(10), *(Document(f"new{i}", f"giraffe {i}") for i in range(20))])
    assert "was interrupted: what it had not committed is not found" in _problems(BM25(tmp_path))
    p = Pipeline()
    p.output(hits=p.add(BM25(tmp_path), p.input(Query)))
    with caplog.at_level(logging.WARNING):
        assert len(p.run("giraffe").hits) == 16
    assert "rerun the job" in caplog.text
    _build(None, tmp_path, hash_encoder(4))  # a job over nothing does not finish it
    assert "was interrupted" in _problems(BM25(tmp_path))
    _build([*_documents(10), *(Document(f"new{i}", f"giraffe {i}") for i in range(20))], tmp_path, hash_encoder(4))
    assert _problems(BM25(tmp_path)) == ""


def test_a_job_that_was_refused_or_changed_nothing_leaves_no_note(tmp_path: Path, hash_encoder: Any) -> None:
    _build(_documents(10), tmp_path, hash_encoder(4))
    for refused in (lambda: _build(_documents(10), tmp_path, hash_encoder(4, salt="other")),
                    lambda: build_index(_documents(10), tmp_path, encoder=hash_encoder(4), chunker="tokens:9,overlap=0",
                                        progress=False),
                    lambda: _build((x for x in [*_documents(10), 7]), tmp_path, hash_encoder(4))):
        with pytest.raises((FingerprintMismatch, CorpusError)):
            refused()
        assert _problems(BM25(tmp_path)) == ""


def test_only_a_job_over_the_same_sources_finishes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(f"text of {name}")
    index, original = tmp_path / "i", StoreWriter.commit

    def broken(self: StoreWriter, shard: Any, first_row: int) -> None:
        original(self, shard, first_row)
        raise KeyboardInterrupt

    monkeypatch.setattr(StoreWriter, "commit", broken)
    with pytest.raises(Interrupted):
        _build(str(tmp_path / "one"), index, None)
    monkeypatch.undo()
    _build(tmp_path / "two", index, None)
    assert f"regard index {tmp_path}/one --index {index} --encoder none --chunker whole" in _problems(BM25(index))
    monkeypatch.chdir(tmp_path)
    _build(["two", "one"], index, None)
    assert _problems(BM25(index)) == ""


def test_a_killed_job_leaves_its_note(tmp_path: Path) -> None:
    code = SLOW.format(tests=str(Path(__file__).parents[2]))
    job = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    job.stdout.readline()
    assert "a job is working on this index" in _problems(BM25(tmp_path))
    job.kill()
    job.wait()
    assert "call build_index" in _problems(BM25(tmp_path))


def test_a_damaged_note_is_still_a_note(tmp_path: Path) -> None:
    _build(_documents(3), tmp_path, None)
    (tmp_path / unfinished.FILE).write_text("{")
    assert "was interrupted" in _problems(BM25(tmp_path))


def test_an_error_in_the_middle_keeps_what_is_encoded(tmp_path: Path, hash_encoder: Any) -> None:
    def breaks() -> Iterator[Any]:
        yield from _documents(70)
        raise CorpusError("the source broke off")

    encoder: Callable[..., Any] = hash_encoder(4)
    with pytest.raises(CorpusError, match="broke off"):
        _build(breaks(), tmp_path, encoder)
    assert len(LanceStore(tmp_path)) == 64
