"""Folders, JSON lines, BEIR, TREC and Parquet: documents in order, and a reason for everything that is left out."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.indexers.corpus import Skip, detect_format, estimate_size, read_corpus
from regard.indexers.corpus.decoding import BinaryData, decode, well_formed
from regard.rag.errors import CorpusError

from ...pdfs import pdf_of


def read(source, format="auto"):
    skips: list[Skip] = []
    return list(read_corpus(source, format=format, on_skip=skips.append)), skips


def pdf(text: str) -> bytes:
    """A PDF of one page that shows ``text``."""
    return pdf_of(f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode(), b"A pump manual")


@pytest.fixture
def folder(tmp_path):
    files = {
        "b/notes.md": b"---\nlayout: page\n---\n# The *pump*\r\n\r\nTurn it on.\r\n",
        "a.txt": "\ufeffNaïve text.".encode(),
        "b/page.html": (
            b"<html><head><meta charset='iso-8859-1'><title>A  caf\xe9</title><script>alert(1)</script></head><body>"
            b"<nav>Menu</nav>"
            b"<h1>Head</h1><p>One <b>bold</b>\nline.<br>Two</p><!-- no --><pre>  x = 1\n    y</pre><ul><li>i</li>"
            b"<li>ii</li></ul>"
            b"<table><tr><td>1</td><td>2</td></tr></table>&amp; on</body></html>"
        ),
        "c/old.txt": "“quoted” naïve".encode("cp1252"),
        "c/manual.pdf": pdf("Open the valve."),
        "c/wide.txt": "wide".encode("utf-16"),
        ".hidden.txt": b"x", ".git/config.txt": b"x",
        "d/binary.txt": b"\x89PNG\r\n\x00\x00", "d/noise.txt": bytes(range(1, 8)) * 9, "d/photo.png": b"\x89PNG",
        "d/empty.md": b" \n",
        "d/broken.pdf": b"%PDF-1.4\nnothing here", "d/data.csv": b"a,b",
    }
    for name, content in files.items():
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "corpus" / "d" / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "corpus" / "d" / "pipe.txt")
    return tmp_path / "corpus"


def test_a_folder_gives_its_texts_in_order_and_counts_the_rest(folder):
    documents, skips = read(folder)
    assert [d.id for d in documents] == ["a.txt", "b/notes.md", "b/page.html", "c/manual.pdf", "c/old.txt",
                                         "c/wide.txt"]
    assert [d.title for d in documents] == ["a", "The pump", "A café", "A pump manual", "old", "wide"]
    by_id = {d.id: d for d in documents}
    assert by_id["a.txt"].text == "Naïve text."
    assert by_id["b/notes.md"].text == "---\nlayout: page\n---\n# The *pump*\n\nTurn it on.\n"
    assert by_id["b/page.html"].text == "Head\n\nOne bold line.\nTwo\n\n  x = 1\n    y\n\ni\nii\n\n1 2\n\n& on"
    assert by_id["c/old.txt"].text == "“quoted” naïve"
    assert by_id["c/old.txt"].metadata == {"encoding": "cp1252"}
    assert by_id["c/manual.pdf"].text == "Open the valve."
    assert by_id["c/manual.pdf"].metadata == {"pages": 1}
    assert by_id["c/wide.txt"].text == "wide"
    reasons = {skip.location: skip.reason for skip in skips}
    assert reasons.keys() == {f"d/{n}" for n in (
        "binary.txt", "broken.pdf", "data.csv", "empty.md", "gone.txt", "noise.txt", "photo.png", "pipe.txt",
    )}
    assert "NUL" in reasons["d/binary.txt"]
    assert "control" in reasons["d/noise.txt"]
    assert ".csv" in reasons["d/data.csv"]
    assert estimate_size(folder) == 12
    assert read(folder) == (documents, skips)


def test_one_file_is_a_corpus_of_one(folder):
    documents, _ = read(folder / "b" / "notes.md")
    assert [(d.id, d.title) for d in documents] == [("notes.md", "The pump")]


def test_a_text_file_is_a_text_whatever_it_begins_with(tmp_path):
    (tmp_path / "code.txt").write_text('{"id": "x", "text": "y"}')
    assert [(d.id, d.text) for d in read(tmp_path / "code.txt")[0]] == [("code.txt", '{"id": "x", "text": "y"}')]
    (tmp_path / "old.txt").write_bytes(TREC)
    assert detect_format(tmp_path / "old.txt") == "trec"


@pytest.mark.parametrize("charset",
                         ["utf-16", "idna", "hex", "undefined", "no-such", "latin-1", "us-ascii", "windows-1252"])
def test_a_declared_encoding_is_read_as_browsers_read_it(tmp_path, charset):
    (tmp_path / "p.html").write_bytes(f"<meta charset={charset}><p>“x”</p>".encode("cp1252"))
    assert [d.text for d in read(tmp_path)[0]] == ["“x”"]


def test_a_pipe_is_read_once(tmp_path):
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert estimate_size(pipe, "jsonl") is None
    with pytest.raises(CorpusError, match="pipe"):
        detect_format(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(jsonl(RECORDS),))
    writer.start()
    documents, _ = read(pipe, "jsonl")
    writer.join()
    assert len(documents) == 4


def test_deeply_nested_markup_is_read(tmp_path):
    (tmp_path / "deep.html").write_text("<div>" * 5000 + "bottom" + "</div>" * 5000)
    assert [d.text for d in read(tmp_path)[0]] == ["bottom"]


def test_a_file_name_that_is_not_unicode(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("text")
    assert [d.id for d in read(tmp_path)[0]] == ["caf\\xe9.txt"]


RECORDS = [
    {"id": "a", "text": "first", "title": "T", "year": 2020, "tags": ["x"], "metadata": {"lang": "en", "deep": [1]}},
    {"_id": 7, "contents": "second", "none": None, "score": float("nan")},
    {"docid": "c", "body": "third \ud800 \ud83d\ude00"},
    {"_id": "d", "title": "only a title", "text": ""},
]
BAD = ["{", "[1]", "3", '{"text": "no id"}', '{"id": "", "text": "x"}', '{"id": true, "text": "x"}', '{"id": "x"}',
       '{"id": "x", "text": 3}', '{"id": "x", "text": " "}', "[" * 100_000, '{"id": 1' + "0" * 5000 + "}"]


def jsonl(records):
    return "\n".join(map(json.dumps, records))


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "beir/corpus.jsonl", "beir/corpus.jsonl.gz",
                                  "shards/1.jsonl", "noname"])
def test_json_lines(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    content = ("\ufeff" + jsonl(RECORDS)).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    documents, skips = read(path.parent if "/" in name else path)
    assert skips == []
    assert [(d.id, d.text, d.title) for d in documents] == [
        ("a", "first", "T"), ("7", "second", ""), ("c", "third \ufffd 😀", ""), ("d", "only a title", ""),
    ]
    assert documents[0].metadata == {"year": 2020, "lang": "en", "deep": [1]}
    assert documents[1].metadata == {}
    assert estimate_size(path) == 4


def test_a_bad_line_is_a_skip_with_its_number(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes("\n".join([jsonl(RECORDS[:1]), "", *BAD]).encode() + b'\n{"id": "\xff"}\n'
                     + jsonl(RECORDS[1:]).encode())
    documents, skips = read(path)
    assert [d.id for d in documents] == ["a", "7", "c", "d"]
    assert [skip.location for skip in skips] == [f"{path}:{3 + i}" for i in range(len(BAD) + 1)]
    assert all(skip.reason and skip.source == str(path) for skip in skips)


def test_a_gzip_file_that_breaks_off_gives_what_it_has_and_says_so(tmp_path):
    path = tmp_path / "c.jsonl.gz"
    lines = [json.dumps({"id": str(i), "text": os.urandom(64).hex()}) for i in range(5000)]
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:-20_000])
    seen: list[str] = []

    def consume():
        for document in read_corpus(path, on_skip=lambda skip: pytest.fail(skip.reason)):
            seen.append(document.id)

    with pytest.raises(CorpusError, match="damaged") as caught:
        consume()
    assert len(seen) > 1000
    assert seen == [str(i) for i in range(len(seen))]
    assert caught.value.where == str(path)
    assert estimate_size(path) is None


def test_reading_is_lazy(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(jsonl([RECORDS[0]]) + "\n" + "broken\n" * 1000)
    skips: list[Skip] = []
    documents = read_corpus(path, on_skip=skips.append)
    assert next(documents).id == "a"
    assert skips == []


TREC = b"""<DOC>
<DOCNO> FT-1 </DOCNO>
<HEADLINE>Oil
 prices</HEADLINE>
<TEXT>
Prices <b>rose</b> 3 &lt; 4 &amp; caf\xe9.
</TEXT>
<TEXT>Again.</TEXT>
</DOC><DOC><DOCNO>FT-2</DOCNO><TITLE>Bare</TITLE>Loose text.</DOC>
<DOC><TEXT>nobody</TEXT></DOC>
<DOC><DOCNO>cut</DOCNO><TEXT>never closed</TEXT>
<doc><docno>FT-3</docno><text>lower case</text></doc>
<DOC><DOCNO>FT-4</DOCNO><TEXT></TEXT></DOC>
<DOC><DOCNO>FT-5</DOCNO>the end"""


@pytest.mark.parametrize("name", ["c.trec", "c.trec.gz", "plain"])
def test_trec_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(TREC) if name.endswith(".gz") else TREC)
    documents, skips = read(path)
    assert [(d.id, d.title, d.text) for d in documents] == [
        ("FT-1", "Oil prices", "Prices rose 3 < 4 & café.\n\nAgain."), ("FT-2", "Bare", "Loose text."),
        ("FT-3", "", "lower case"),
    ]
    assert [(skip.location, skip.reason) for skip in skips] == [
        (f"{path}:10", "the document has no <DOCNO>"), (f"{path}:11", "the document has no </DOC>"),
        (f"{path}:13", "the document has no text"), (f"{path}:14", "the document has no </DOC>"),
    ]
    assert estimate_size(path) == 4  # an estimate: it counts the ends that are written in upper case


def test_parquet(tmp_path):
    import datetime

    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "c.parquet"
    table = pa.table({
        "_id": ["a", "b", None], "text": ["first", None, "third"], "year": [2020, 2021, 2022],
        "vector": [[1.0, 2.0]] * 3,
        "day": [datetime.date(2020, 1, 2)] * 3, "raw": [b"x"] * 3, "metadata": [{"lang": "en"}] * 3,
    })
    parquet.write_table(table, path)
    documents, skips = read(path)
    assert [(d.id, d.text, d.metadata) for d in documents] == [("a", "first",
                                                                {"year": 2020, "day": "2020-01-02", "lang": "en"})]
    assert [skip.location for skip in skips] == [f"{path} row 2", f"{path} row 3"]
    assert estimate_size(path) == 3
    assert detect_format(tmp_path) == "parquet"
    parquet.write_table(pa.table({"name": ["a"]}), path)
    with pytest.raises(CorpusError, match="no id column"):
        read(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(CorpusError, match="cannot be read"):
        read(path)


def test_sources_that_cannot_be_read_at_all(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\x00\x01")
    (tmp_path / "x.gz").write_bytes(b"not gzip")
    for source, format, problem in [
        (tmp_path / "absent", "auto", "nothing at this path"), (tmp_path / "absent", "jsonl", "nothing at this path"),
        (tmp_path, "xml", "no corpus format 'xml'"), (tmp_path / "x.bin", "auto", "not known"),
        (tmp_path / "x.gz", "auto", "cannot be read"),
        (tmp_path, "beir", "no corpus.jsonl"), (tmp_path, "parquet", "no file ending"),
    ]:
        with pytest.raises(CorpusError, match=problem):
            read(source, format)


@given(st.binary(max_size=200))
def test_decoding_gives_valid_text_or_a_reason(data):
    try:
        text, _ = decode(data)
    except BinaryData:
        return
    assert "\r" not in text
    assert "\0" not in text or data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\0\0\xfe\xff"))


@given(st.text(st.characters(exclude_characters="\r\0"), min_size=1, max_size=40).filter(lambda t: t.isprintable()))
def test_utf8_is_read_as_utf8(text):
    if not text.startswith("\ufeff"):
        assert decode(text.encode()) == (text, "utf-8")


@given(st.text(st.characters(), max_size=30))
def test_well_formed_text_can_be_encoded_and_good_text_is_left_alone(text):
    fixed = well_formed(text)
    fixed.encode()
    assert fixed == text or any("\ud800" <= character <= "\udfff" for character in text)


@pytest.mark.data
def test_the_shared_collections(shared_data):
    for name, size in (("scifact", 5183), ("vaswani", 11429), ("msmarco-dl19", 4297), ("hotpotqa-100", 994),
                       ("xquad-en", 240)):
        documents, skips = read(shared_data / name)
        assert (len(documents), skips) == (size, [])
        assert estimate_size(shared_data / name) == size
