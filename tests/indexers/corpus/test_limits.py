"""Hostile files: over a limit is a counted skip that names it, in bounded time and memory, and the rest is read."""

from __future__ import annotations

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.indexers import build_index
from regard.indexers.chunkers import Chunker
from regard.indexers.corpus import Limits, Skip, detect_format, estimate_size, lines, objects, parsing, read_corpus
from regard.indexers.corpus.skips import Unreadable
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Document
from regard.rag.errors import ConfigError, CorpusError, EmptyCorpusError
from regard.rag.parts import part

from ...pdfs import pdf_of

SMALL = Limits(
    record_bytes=10_000, file_bytes=1_000_000, decompressed_bytes=100_000_000, decompressed_ratio=50,
    document_characters=20_000,
    stored_characters=60_000, passage_characters=1_000, metadata_depth=5, id_characters=100, seconds=1,
    memory_bytes=200_000_000,
)


def read(source: Path | str, format: str = "auto", limits: Limits = SMALL) -> tuple[list[str], list[Skip]]:
    skips: list[Skip] = []
    return [document.id for document in read_corpus(source, format=format, limits=limits, on_skip=skips.append)], skips


@pytest.fixture(autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    parsing.close()


SLOW_PDF = pdf_of(b"BT /F1 12 Tf " + b"1 0 0 1 0 0 Tm (a) Tj " * 40_000 + b"ET")
GOOD_PDF = pdf_of(b"BT /F1 12 Tf (fine) Tj ET")


# --- records ----------------------------------------------------------------------------------------------------------
# -----------------

GOOD = json.dumps({"id": "good", "text": "fine"})
DEEP = '{"a":' * 8 + "1" + "}" * 8
LINES = {
    "a long line": (json.dumps({"id": "x", "text": "y" * 20_000}), "record_bytes"),
    "a line of many megabytes": ("y" * 3_000_000, "record_bytes"),
    "deep metadata": (f'{{"id":"x","text":"y","metadata":{DEEP}}}', "metadata_depth"),
    "deeper metadata than Python goes": ('{"id":"x","text":"y","metadata":' + '{"a":' * 900 + "1" + "}" * 901,
                                         "deep|recursion"),
    "a long id": (json.dumps({"id": "x" * 101, "text": "y"}), "id_characters"),
    "an id with NUL": (json.dumps({"id": "a\0", "text": "y"}), "NUL"),
    "an empty id": (json.dumps({"id": "", "text": "y"}), "no id"),
    "a text that is no string": ('{"id":"x","text":null}', "no text"),
    "binary": ("\0\1\2", "not JSON"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", LINES)
def test_a_hostile_line_is_a_skip(tmp_path: Path, name: str, packed: bool) -> None:
    line, reason = LINES[name]
    path = tmp_path / ("c.jsonl.gz" if packed else "c.jsonl")
    content = f"{line}\n{GOOD}\n".encode()
    limits = Limits(**{**{f: getattr(SMALL, f) for f in SMALL.__slots__}, "decompressed_ratio": 10_000})
    path.write_bytes(gzip.compress(content) if packed else content)
    ids, skips = read(path, limits=limits)
    assert ids == ["good"]
    assert [skip.location for skip in skips] == [f"{path}:1"]
    assert any(word in skips[0].reason for word in reason.split("|")), skips[0].reason


@pytest.mark.parametrize(("name", "document", "reason"), [
    ("a long line", "<TEXT>" + "y" * 20_000 + "</TEXT>", "record_bytes"),
    ("many lines", "<TEXT>" + "y\n" * 9_000, "record_bytes"),
    ("a long id", "<DOCNO>" + "i" * 101 + "</DOCNO>text", "id_characters"),
    ("no end of a title", "<TI>" * 2_000, "no text"),
    ("a huge character reference", "&#" + "1" * 5_000 + ";", ""),
])
def test_a_hostile_trec_document_is_a_skip(tmp_path: Path, name: str, document: str, reason: str) -> None:
    path = tmp_path / "c.trec"
    number = "" if "DOCNO" in document else "<DOCNO>bad</DOCNO>\n"
    path.write_text(f"<DOC>\n{number}{document}\n</DOC>\n<DOC><DOCNO>good</DOCNO>fine</DOC>\n")
    ids, skips = read(path)
    assert ids == (["good"] if reason else ["bad", "good"])
    assert all(reason in skip.reason for skip in skips)
    assert bool(skips) == bool(reason)


def test_a_document_without_one_of_its_lines_is_not_read_as_if_it_were_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.trec"
    path.write_text("<DOC><DOCNO>cut</DOCNO>before\n" + "y" * 20_000
                    + "\nafter</DOC>\n<DOC><DOCNO>good</DOCNO>fine</DOC>")
    ids, skips = read(path)
    assert ids == ["good"]
    assert [skip.location for skip in skips] == [f"{path}:2", f"{path}:1"]


def test_a_gzip_bomb_is_a_skip_and_what_came_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(f"{GOOD}\n".encode())
        for _ in range(70):
            file.write(bytes(1_000_000))
    ids, skips = read(path)
    assert ids == ["good"]
    assert "decompressed_ratio=50" in skips[-1].reason
    assert "decompressed_bytes" in read(path,
                                        limits=Limits(decompressed_bytes=1_000_000,
                                                      decompressed_ratio=10_000))[1][-1].reason
    assert not read(path,
                    limits=Limits(decompressed_ratio=10_000,
                                  record_bytes=100_000_000))[1][0].reason.count("decompressed")


def test_a_file_without_line_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_REACH", 10_000_000)
    path = tmp_path / "c.jsonl"
    with path.open("wb") as file:
        file.truncate(10 ** 13)  # takes no space
    ids, skips = read(path)
    assert ids == []
    assert "the rest of the file is not read" in skips[-1].reason


def test_hostile_parquet_rows_are_skips(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def written(name: str, texts: Any, **options: Any) -> list[str]:
        path = tmp_path / f"{name}.parquet"
        parquet.write_table(pa.table({"id": [str(i) for i in range(len(texts))], "text": texts}), path, **options)
        ids, skips = read(path)
        reasons.extend(skip.reason for skip in skips)
        return ids

    reasons: list[str] = []
    assert written("long", ["a", "y" * 20_000, "b"]) == ["0", "2"]
    assert "a row of 20,001 bytes" in reasons.pop()
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000 + [1], pa.int32()), ["y" * 1_000_000, "fine"])
    assert written("repeated", repeated) == ["5000"]  # 5 GB of text in a file of some kB
    assert len(reasons) == 5_000
    assert written("grown", ["y" * 100_000_000], compression="zstd", use_dictionary=False) == []
    assert "decompressed_ratio" in reasons.pop()


# --- files ------------------------------------------------------------------------------------------------------------
# -----------------

FILES: dict[str, tuple[bytes, str]] = {
    "huge.txt": (b"y" * 90_000, "document_characters"), "long.txt": (b"y" * 30_000, "document_characters"),
    "huge.pdf": (b"%PDF" + b"y" * 1_100_000, "file_bytes"), "slow.pdf": (SLOW_PDF, "seconds"),
    "broken.pdf": (b"%PDF-1.4\n", "PDF"),
    "long.html": (b"<p>" + b"y" * 30_000, "document_characters"), "empty.html": (b"<![" * 6_000, ""),
    "tags.html": (b"<a " * 6_000, ""),
    "references.html": (b"<p>&#" + b"1" * 9_000, ""), "reference.html": (b"<p title='&#x" + b"1" * 9_000 + b";'>x", ""),
    "long.md": (b"# y" + b"y" * 30_000, "document_characters"),
    "title.md": (b"---\ntitle: x" + b" " * 15_000 + b"y\n---\nz", ""),
    "quotes.md": (b">" * 19_000, ""), "brackets.md": (b"# " + b"[" * 19_000, ""),
    "emphasis.md": (b"# " + b"*a_" * 6_000, ""),
    "charset.html": (b"<meta charset=punycode>" + b"y-" * 9_000, ""),
}


def test_every_hostile_file_of_a_folder_is_read_or_skipped_and_the_rest_is_read(tmp_path: Path) -> None:
    for name, (content, _) in FILES.items():
        (tmp_path / name).write_bytes(content)
    for name in ("a.txt", "z.txt"):
        (tmp_path / name).write_text("fine")
    (tmp_path / "good.pdf").write_bytes(GOOD_PDF)
    ids, skips = read(tmp_path)
    reasons = {skip.location: skip.reason for skip in skips}
    assert {"a.txt", "good.pdf", "z.txt"} <= set(ids)
    assert set(ids) | set(reasons) == {*FILES, "a.txt", "good.pdf", "z.txt"}
    assert {name: reason for name, (_, reason) in FILES.items() if reason and reason not in reasons.get(name, "")} == {}
    assert {name for name, (_, reason) in FILES.items() if not reason} <= set(ids)


@pytest.mark.parametrize(("suffix", "unit"), [
    ("html", "<a "), ("html", "<a b='"), ("html", "<!--x>"), ("html", "<![CDATA[>"), ("html", "</a "),
    ("html", "<b>x<br/>"),
    ("html", "<br></p>"), ("html", "<?"), ("md", "> "), ("md", "[a]: b\n"), ("md", "- "), ("md", "*a_ [x](y `"),
    ("md", "\n\n# ["),
    ("trec", "<TI>"), ("trec", "<DOCNO><HL>"), ("trec", "<DOCID>"), ("trec", "<a"), ("trec", "&#1"),
])
def test_a_megabyte_is_parsed_in_time(tmp_path: Path, suffix: str, unit: str) -> None:
    """Today's worst of these took hours."""
    body = unit * (1_000_000 // len(unit))
    (tmp_path / f"x.{suffix}").write_text(f"<DOC><DOCNO>1</DOCNO>{body}</DOC>" if suffix == "trec" else body)
    start = time.process_time()
    _, skips = read(tmp_path / f"x.{suffix}", limits=Limits(seconds=15))
    assert not any("limit" in skip.reason for skip in skips)
    assert time.process_time() - start < 15


# --- the parser process
# ----------------------------------------------------------------------------------------------------------------

def test_the_parser_process_gives_what_this_process_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    page = b"<title>T\xc3\xa9</title><p>a <b>b</b></p><pre> x\n  y</pre>\xf0\x9f\x98\x80"
    text = b"# A *b*\n\ntext\n\n## C `d`\n" + "\ud800".encode("utf-8", "surrogatepass")
    here = [parsing.parse("html", page, SMALL), parsing.parse("headings", text, SMALL),
            parsing.parse("title", text, SMALL)]
    monkeypatch.setattr(parsing, "_SHORT", -1)
    there = [parsing.parse("html", page, SMALL), parsing.parse("headings", text, SMALL),
             parsing.parse("title", text, SMALL)]
    assert here == [tuple(there[0]) if i == 0 else there[i] for i in range(3)]


def _parsed(kind: str = "pdf", data: bytes = GOOD_PDF, limits: Limits = SMALL) -> Any:
    return parsing.parse(kind, data, limits)


def test_a_process_over_a_limit_is_replaced() -> None:
    assert _parsed()[1] == "fine"
    first = parsing._running
    with pytest.raises(Unreadable, match="seconds=1 "):
        _parsed(data=SLOW_PDF)
    assert _parsed()[1] == "fine"
    assert parsing._running is not first
    with pytest.raises(Unreadable, match="memory_bytes"):
        _parsed("html", b"<b>" * 5_000_000, Limits(memory_bytes=30_000_000))
    assert _parsed()[1] == "fine"


def test_a_crash_is_a_skip() -> None:
    assert _parsed()[1] == "fine"
    running = parsing._running
    assert running is not None
    threading.Timer(0.3, os.kill, (running._process.pid, signal.SIGSEGV)).start()
    with pytest.raises(Unreadable, match="crashed"):
        _parsed(data=SLOW_PDF, limits=Limits(memory_bytes=SMALL.memory_bytes))
    assert _parsed()[1] == "fine"


def test_an_interrupt_leaves_no_answer_to_the_next_document(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _parsed()[1] == "fine"
    running = parsing._running
    assert running is not None

    class Interrupting:
        def readline(self) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr(running._process, "stdout", Interrupting())
    monkeypatch.setattr(running._process, "communicate", running._process.wait)
    with pytest.raises(KeyboardInterrupt):
        _parsed(data=SLOW_PDF)
    monkeypatch.undo()
    assert _parsed()[1] == "fine"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_parser_process_knows_no_secrets_and_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "planted")
    assert _parsed()[1] == "fine"
    running = parsing._running
    assert running is not None
    assert b"planted" not in Path(f"/proc/{running._process.pid}/environ").read_bytes()
    code = ("from regard.indexers.corpus import parsing, Limits; parsing.parse('pdf', open(0, 'rb').read(), Limits());"
            "print(parsing._running._process.pid, flush=True); import os; os.kill(os.getpid(), 9)")
    killed = subprocess.run([sys.executable, "-c", code], input=GOOD_PDF, capture_output=True, check=False,
                            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    pid, end = int(killed.stdout), time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and b"parser_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- what is no file, and links
# --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("format", ["auto", "folder", "jsonl", "beir", "trec", "parquet"])
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_source(tmp_path: Path, device: str, format: str) -> None:
    for source in (Path(device), tmp_path / "x.jsonl"):
        if not source.exists():
            source.symlink_to(device)
        with pytest.raises(CorpusError):
            read(source, format)
        with pytest.raises(CorpusError):
            estimate_size(source, format)


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.jsonl")
    with pytest.raises(EmptyCorpusError, match="a pipe that nobody writes to"):
        build_index(tmp_path / "p.jsonl", tmp_path / "i", format="jsonl", encoder=None, limits=SMALL, progress=False)


@pytest.mark.parametrize("suffix", ["jsonl", "trec", "parquet"])
def test_shards_that_are_no_files_are_skips(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    os.mkfifo(folder / f"a.{suffix}")
    (folder / f"b.{suffix}").symlink_to("/dev/zero")
    (folder / f"c.{suffix}").mkdir()
    (folder / f"d.{suffix}").symlink_to("/etc/passwd")
    assert detect_format(folder) == suffix
    ids, skips = read(folder)
    assert ids == []
    assert [Path(skip.location).name[0] for skip in skips] == ["a", "b", "c", "d"]
    assert "outside_links" in skips[3].reason
    estimate_size(folder)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    for name in ("corpus/sub", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "corpus" / "sub" / "in.txt").write_text("inside")
    (tmp_path / "other" / "out.txt").write_text("outside")
    (tmp_path / "other" / "loop").symlink_to(tmp_path / "other")
    (tmp_path / "corpus" / "file.txt").symlink_to(tmp_path / "other" / "out.txt")
    (tmp_path / "corpus" / "folder").symlink_to(tmp_path / "other")
    (tmp_path / "corpus" / "own.txt").symlink_to("sub/in.txt")
    (tmp_path / "corpus" / "ring.txt").symlink_to("ring.txt")
    (tmp_path / "corpus" / "round").symlink_to(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_a_link_that_leads_out_is_a_skip(linked: Path, tmp_path: Path) -> None:
    ids, skips = read(linked)
    assert ids == ["own.txt", "sub/in.txt"]
    assert {Path(skip.location).name for skip in skips} == {"file.txt", "folder", "ring.txt"}
    (tmp_path / "door").symlink_to(linked)  # the source itself may be a link
    assert read(tmp_path / "door")[0] == ids


def test_links_are_followed_where_the_setting_says_so_each_folder_once(linked: Path) -> None:
    ids, skips = read(linked, limits=Limits(outside_links=True))
    assert ids == ["folder/out.txt", "file.txt", "own.txt", "sub/in.txt"]
    assert [skip.location for skip in skips] == ["ring.txt"]


def test_a_beir_corpus_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "beir").mkdir()
    (tmp_path / "real.jsonl").write_text(GOOD)
    (tmp_path / "beir" / "corpus.jsonl").symlink_to(tmp_path / "real.jsonl")
    with pytest.raises(CorpusError, match="outside_links"):
        read(tmp_path / "beir")
    assert read(tmp_path / "beir", limits=Limits(outside_links=True))[0] == ["good"]


# --- Python objects and the job
# --------------------------------------------------------------------------------------------------------

def _nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


def _cycle() -> dict[str, Any]:
    ring: dict[str, Any] = {}
    ring["a"] = [ring, ring]
    return ring


OBJECTS: dict[str, Any] = {
    "no text": Document("x", None), "no id": Document(None, "t"),
    "an empty id": Document("", "t"), "a long id": Document("x" * 10 ** 6, "t"),
    "NUL": Document("a\0b", "t"), "no title": Document("x", "t", None), "no metadata": Document("x", "t", "", None),
    "deep": Document("x", "t", "", _nested(3000)),
    "a deep mapping": {"id": "x", "text": "t", "metadata": _nested(3000)},
    "a cycle": Document("x", "t", "", _cycle()), "a cyclic mapping": {"id": "x", "text": "t", "metadata": _cycle()},
    "NaN": Document("x", "t", "", {"a": [math.nan]}), "a key": Document("x", "t", "", {"a": {(1, 2): 3}}),
    "long": Document("x", "t" * 20_001), "long metadata": Document("x", "t. " * 500, "", {"a": "m" * 59_000}),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_hostile_object_is_a_skip_and_the_job_goes_on(tmp_path: Path, name: str) -> None:
    report = build_index([Document("a", "fine"), OBJECTS[name], Document("b", "fine")], tmp_path, encoder=None,
                         chunker="sentences:20,overlap=0,tokenizer=words", views=[], limits=SMALL, progress=False)
    kept = {"a", "b"} | ({"x"} if name in ("no title",) else set())
    assert {p.document_id for p in LanceStore(tmp_path).passages(LanceStore(tmp_path).rows)} == kept
    assert report.skipped == 3 - len(kept)


def test_a_document_that_no_longer_fits_keeps_what_is_stored(tmp_path: Path) -> None:
    build_index([Document("a", "old text")], tmp_path, encoder=None, chunker="whole", views=[], progress=False)
    corpus = [Document("a", "new " * 1000), Document("b", "fine")]
    report = build_index(corpus, tmp_path, encoder=None, views=[], limits=SMALL, progress=False)
    assert "passage_characters" in report.skips[0].reason
    store = LanceStore(tmp_path)
    assert sorted(p.text for p in store.passages(store.rows)) == ["fine", "old text"]


@pytest.mark.parametrize("spec", ["sentences:20,overlap=4", "tokens:20,overlap=4", "markdown:20"])
@settings(max_examples=40)
@given(text=st.text(st.sampled_from("ab.# \n\u3002\U0001f600"), max_size=400), longest=st.integers(1, 50))
def test_no_passage_is_longer_than_the_limit_and_nothing_is_lost(spec: str, text: str, longest: int) -> None:
    passages = part(Chunker, f"{spec},tokenizer=words").chunk(Document("d", text), Limits(passage_characters=longest))
    covered = set[int]()
    for passage in passages:
        assert passage.text == text[passage.start:passage.end]
        assert 0 < len(passage.text) <= longest
        covered |= set(range(passage.start, passage.end))
    assert all(text[i].isspace() for i in set(range(len(text))) - covered)
    assert len({passage.id for passage in passages}) == len(passages)


@pytest.mark.parametrize("spec", ["sentences", "tokens", "markdown"])
def test_one_word_of_megabytes_is_many_passages(spec: str) -> None:
    text = "x" * 5_000_000
    passages = part(Chunker, spec).chunk(Document("d", text))
    assert "".join(passage.text for passage in passages) == text
    assert max(len(passage.text) for passage in passages) <= 1_000_000
    with pytest.raises(Unreadable, match="passage_characters"):
        part(Chunker, "whole").chunk(Document("d", text))


def test_what_passages_repeat_counts() -> None:
    document = Document("d", "One sentence here. " * 50, "t" * 4_000)
    with pytest.raises(Unreadable, match="stored_characters"):
        part(Chunker, "sentences:4,overlap=0,tokenizer=words").chunk(document, SMALL)
    assert part(Chunker, "sentences:200,tokenizer=words").chunk(document, SMALL)


# --- the settings
# ----------------------------------------------------------------------------------------------------------------------

def test_limits_as_text() -> None:
    limits = Limits.parse(["record_bytes=64M", "seconds=5", "outside_links=true"])
    assert limits == Limits(record_bytes=64_000_000, seconds=5, outside_links=True)
    assert Limits.parse(limits.settings()) == limits
    assert Limits().settings() == []
    for wrong in ("seconds", "seconds=", "seconds=0", "seconds=-1", "seconds=x", "second=1", "outside_links=2",
                  "seconds=" + "9" * 5000):
        with pytest.raises(ConfigError):
            Limits.parse([wrong])
    with pytest.raises(ConfigError):
        Limits(seconds=True)


def test_the_command_takes_limits_and_says_their_defaults(tmp_path: Path) -> None:
    from regard.rag.app.cli import app
    from regard.rag.app.cli import index as command
    from typer.testing import CliRunner

    assert all(default in command._LIMITS for default in Limits.described().split(", "))
    (tmp_path / "c").mkdir()
    for name, text in (("a.txt", "fine"), ("b.txt", "too long")):
        (tmp_path / "c" / name).write_text(text)
    arguments = ["index", str(tmp_path / "c"), "--index", str(tmp_path / "i"), "--encoder", "none", "--view", "bm25",
                 "--json"]
    result = CliRunner().invoke(app, [*arguments, "--limit", "document_characters=5"])
    report = json.loads(result.stdout[result.stdout.index("{"):])
    assert (report["added"], report["skipped"]) == (1, 1)
    assert "--limit document_characters=N" in report["skips"][0]["reason"]


# --- memory -----------------------------------------------------------------------------------------------------------
# -----------------

_MEASURED = """
import re, resource, sys
from pathlib import Path
from regard.indexers.corpus import parsing, read_corpus

def own():  # the peak that getrusage gives of a process begins with its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

before = own()
documents = sum(1 for _ in read_corpus(sys.argv[1], on_skip=lambda skip: None))
parsing.close()
print(documents, own() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _bomb(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(f"{GOOD}\n".encode())
        for _ in range(300):
            file.write(bytes(1_000_000))


def _line(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(300):
            file.write(b"x" * 1_000_000)
        file.write(f"\n{GOOD}\n".encode())


MEMORY: dict[str, tuple[Callable[[Path], object], int]] = {  # MB of this process beyond what it held
    "bomb.jsonl.gz": (_bomb, 100), "line.jsonl": (_line, 100),
    "values.jsonl": (lambda path: path.write_bytes(b'{"id":"good","text":"fine","v":[' + b"{}," * 5_200_000 + b"0]}\n"),
                     700),
    "folder/tags.html": (lambda path: path.write_bytes(b"<a " * 20_000_000), 500),
    "folder/wide.txt": (lambda path: path.write_bytes(b"y" * 60_000_000 + "😀".encode()), 600),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_bounded(tmp_path: Path, name: str) -> None:
    make, most = MEMORY[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    if "/" in name:
        (path.parent / "good.txt").write_text("fine")
    out = subprocess.run([sys.executable, "-c", _MEASURED, str(path.parent if "/" in name else path)],
                         capture_output=True, text=True,
                         check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    documents, own, child = map(int, out.stdout.split())
    assert documents == 1
    assert own / 1000 < most
    assert child / 1000 < Limits().memory_bytes / 1e6 + 150


def test_objects_are_checked_too() -> None:
    skips: list[Skip] = []
    assert list(objects.read([{"id": "x", "text": "t" * 30}], Limits(document_characters=20), skips.append)) == []
    assert "document_characters=20" in skips[0].reason


def test_a_heading_that_never_ends_is_cut_to_a_title(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("<h1>" + "y" * 5_000)
    (document,) = read_corpus(tmp_path, on_skip=lambda skip: None)
    assert (len(document.title), len(document.text)) == (1_000, 5_000)
