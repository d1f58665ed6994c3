"""What a hostile server can make the remote reader do: nothing for longer, or with more memory, than it was told."""

from __future__ import annotations

import gzip
import html
import json
import time
import tracemalloc

import pytest
from regard.rag.dag.scope import Scope
from regard.rag.errors import RemoteError
from regard.rag.models.encoding import Encoder
from regard.rag.nouns import Answer, Passage, PassageList, Ranking, Usage
from regard.rag.parts import part
from regard.readers import RemoteReader, chat

from ..wires import HEAD, wire

MB = 1024 * 1024


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    """Every reader's encoder, so that no test waits for it."""
    with Scope() as scope:
        yield scope.open(part(Encoder, "minilm"))


def _piece(text: str, finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text},
                                                "finish_reason": finish}]}).encode() + b"\n\n"


def _ask(url: str, **settings) -> Answer:
    text = "The tower is 330 metres tall."
    ranking = Ranking.ranked([0], [1.0], "bm25", PassageList([Passage("p", "d", text, 0, len(text))]))
    reader = RemoteReader("m", base_url=url, api_key_env=None, verifier=None,
                          **{"timeout": 5, "retries": 0, **settings})
    (answer,) = reader.apply(["How tall?"], [ranking])
    return answer


def _fails(answer, **settings) -> RemoteError:
    with wire(answer) as server, pytest.raises(RemoteError) as caught:
        _ask(server.url, **settings)
    return caught.value


def _dripping(first: bytes, drop: bytes, end: bytes = b"", times: int = 100):
    def answer(connection):
        connection.sendall(first)
        for _ in range(times):
            connection.sendall(drop)
            time.sleep(0.05)
        connection.sendall(end)

    return answer


@pytest.mark.parametrize("first",
                         [HEAD + b"x", HEAD, HEAD + _piece("The tower"), HEAD + b"data: {", b"HTTP/1.1 200 OK\r\nX-A: ",
                                   b"HTTP/1.1 500 No\r\n\r\n", b""])
@pytest.mark.parametrize("drop", [b": still here\n\n", b"a"])
def test_what_drips_ends_at_the_deadline(first, drop):
    begun = time.perf_counter()
    error = _fails(_dripping(first, drop), timeout=1, deadline=0.5, retries=3)
    assert time.perf_counter() - begun < 1.5
    if first.endswith(b"{") and drop != b"a":
        assert "cannot be read" in error.what
    elif first.startswith(HEAD + b"x") and drop != b"a":
        assert "no event stream" in error.what or "did not answer with an event stream" in error.what
    else:
        assert "deadline of 0.5 s" in error.what or "connection failed" in error.what


def test_tries_and_their_waits_are_within_the_deadline():
    def refuses(connection):
        connection.sendall(b"HTTP/1.1 429 Slow\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n")

    begun = time.perf_counter()
    with wire(refuses) as server, pytest.raises(RemoteError, match="429"):
        _ask(server.url, retries=9, deadline=1)
    assert time.perf_counter() - begun < 0.9  # a wait that would outlast the deadline is not begun
    assert len(server.received) == 1


def test_an_answer_within_the_deadline_is_whole():
    with wire(_dripping(HEAD, _piece("a "), _piece("end", "stop"), times=10)) as server:
        assert _ask(server.url, deadline=30).text.endswith("a end")


def _endless(first: bytes, block: bytes, megabytes: int = 200):
    def answer(connection):
        connection.sendall(first)
        for _ in range(megabytes * MB // len(block)):
            connection.sendall(block)

    return answer


BLOCK = 64 * 1024


@pytest.mark.parametrize(("first", "block", "says"), [
    (HEAD, b"x" * BLOCK, "a line of more than"),
    (HEAD + b"data: ", b"x" * BLOCK, "a line of more than"),
    (HEAD, b"data: x\n" * (BLOCK // 8), "an event of more than"),
    (HEAD, b": comment\n" * (BLOCK // 10), "more than 4,194,304 bytes"),
    (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"y" * 1000 + b"\r\n", "connection failed"),
    (b"HTTP/1.1 400 No\r\nConnection: close\r\n\r\n", b"x" * BLOCK, "answered 400 No: xxx"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n", gzip.compress(bytes(64 * MB)),
     "compressed"),
    (b"HTTP/1.1 400 No\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n", gzip.compress(bytes(64 * MB)),
     "answered 400"),
])
def test_no_more_is_read_or_kept_than_the_limits(first, block, says, monkeypatch):
    monkeypatch.setattr(chat, "MOST_BODY", 4 * MB)
    _fails(lambda connection: None)  # what is imported once
    tracemalloc.start()
    try:
        assert says in _fails(_endless(first, block)).what
        assert tracemalloc.get_traced_memory()[1] < 12 * MB
    finally:
        tracemalloc.stop()


def test_an_answer_that_is_too_long_ends_and_says_so(monkeypatch):
    monkeypatch.setattr(chat, "MOST_ANSWER", 1000)
    with wire(_endless(HEAD, _piece("word " * 30), 1)) as server:
        answer = _ask(server.url)
    assert len(answer.text) <= 1000
    assert answer.truncated


@pytest.mark.parametrize("data", [
    b"[" * 100_000, b'{"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 1e400}}', b"9" * 5000,
                                  b'{"choices": {"a": 1}}', b'{"choices": [5]}', b"\xff\xfe"])
def test_data_that_is_no_chunk_is_an_error(data):
    assert "cannot be read" in _fails(lambda c: c.sendall(HEAD + b"data: " + data + b"\n\n")).what


@pytest.mark.parametrize(("reason", "text", "finish", "note"), [
    ("stop", "It is tall.", "stop", ""), ("length", "It is", "length", "cut at 1 tokens"),
    ("max_tokens", "It is", "length", "cut at 1 tokens"),
    ("content_filter", "It", "filter", "cut by the server's filter"),
    ("content_filter", "", "filter", "cut by the server's filter"),
    ("stop", "  ", "empty", "the model wrote nothing"),
    ("tool_calls", "", "tool_calls", "ended by the server: tool_calls"),
    ("<b>" * 1000, "It is.", "other", "ended by the server: other"),
])
def test_how_an_answer_ended(reason, text, finish, note):
    from regard.rag.app.terminal.found import answer_json
    from regard.rag.show.display import answer_html

    with wire(lambda c: c.sendall(HEAD + _piece(text) + _piece("", reason))) as server:
        answer = _ask(server.url)
    answer = Answer(answer.text, answer.citations, answer.context, Usage(9, 1), answer.sentences, answer.verifier,
                    answer.finish)
    assert (answer.finish, answer.note) == (finish, note)
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer
    assert answer_json(answer)["note"] == note
    assert note in html.unescape(answer_html(answer))


def test_a_broken_stream_is_no_answer():
    assert "after 5 characters" in _fails(lambda c: c.sendall(HEAD + _piece("It is"))).what


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_lines_end_as_event_streams_do(end, size):
    body = end.join(["data: a", "", ": b", "data: ö", "data: d", "", "e"]).encode()
    chunks = [body[i:i + size] for i in range(0, len(body), size)]
    assert list(chat._lines(iter(chunks))) == ["data: a", "", ": b", "data: ö", "data: d", "", "e"]
