"""The remote reader against a local server that speaks the chat protocol, well and badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from regard.rag.dag import trace
from regard.rag.errors import ConfigError, RemoteError
from regard.rag.models import resolve
from regard.rag.nouns import Batch, Passage, PassageList, Query, Ranking
from regard.rag.parts import plain
from regard.readers import RemoteReader, chat
from regard.readers.base import NOTHING_FOUND

KEY = "sk-very-secret-0123456789"
TEXT = "The Eiffel Tower is 330 metres tall. It is in Paris."
QUERY = Query("How tall is the Eiffel Tower?", id="tall")


@dataclass
class Stub:
    """``answers``: what to do with each request in turn (the last one for all that follow)."""

    answers: list[Callable] = field(default_factory=list)
    requests: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


@pytest.fixture
def stub(monkeypatch):
    state = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                answer = state.answers[min(len(state.requests), len(state.answers) - 1)]
                state.requests.append({"path": self.path, **body})
                state.keys.append(self.headers.get("Authorization"))
            answer(self)

        def log_message(self, *args):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(chat, "LONGEST_WAIT", 0.01)
    yield state
    server.shutdown()
    server.server_close()


def _piece(text: str, finish: str | None = None) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def _head(handler, status: int, content_type: str, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": content_type, "Connection": "close", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.close_connection = True


def streams(*events: dict | str, done: bool = True):
    def answer(handler):
        _head(handler, 200, "text/event-stream")
        handler.wfile.write(b": a comment\r\n\r\n")
        for event in events:
            data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            for part in (b"data: ", data.encode(), b"\n\n"):  # torn apart on purpose
                handler.wfile.write(part)
                handler.wfile.flush()
        if done:
            handler.wfile.write(b"data: [DONE]\n\n")

    return answer


def refuses(status: int, message: str = "no", **headers: str):
    def answer(handler):
        _head(handler, status, "application/json", **headers)
        handler.wfile.write(json.dumps({"error": {"message": message}}).encode())

    return answer


def breaks_off(*events: dict):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for event in events:
            handler.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        handler.close_connection = True

    return answer


GOOD = streams(_piece("The Eiffel Tower "), _piece("is 330 metres tall."), _piece("", "stop"),
               {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 9}})


def _ranking(*texts: str) -> Ranking:
    store = PassageList([Passage(f"p{i}", f"d{i}", text, 0, len(text), "Tower") for i, text in enumerate(texts)])
    return Ranking.ranked(range(len(texts)), [1.0 - i / 10 for i in range(len(texts))], "cosine", store)


def _read(stub: Stub, queries=(QUERY,), rankings=None, **settings):
    reader = RemoteReader("a-model", base_url=stub.url, timeout=5, **settings)
    events, entry = [], trace.StageTrace("read", "RemoteReader")
    try:
        with trace.tracing(trace.Running(entry)), trace.listening(events.append):
            answers = reader.apply(Batch(queries), Batch(rankings or [_ranking(TEXT) for _ in queries]))
    finally:
        assert KEY not in repr(reader) + repr(entry) + json.dumps(plain(reader))
    return answers, events, entry


def _fails(stub: Stub, **settings) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        _read(stub, **settings)
    error = caught.value
    assert error.where == f"{stub.url}/chat/completions"
    assert error.hint
    assert KEY not in str(error) + repr(error)
    assert error.__cause__ is None
    return error


def test_an_answer_streams_and_is_cited(stub):
    stub.answers = [GOOD]
    (answer,), events, entry = _read(stub)
    assert answer.text == "The Eiffel Tower is 330 metres tall."
    assert "".join(e.text for e in events) == answer.text
    assert len(events) == 2
    assert answer.citations[0].quote == "The Eiffel Tower is 330 metres tall."
    assert TEXT[answer.citations[0].start:answer.citations[0].end] == answer.citations[0].quote
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (40, 9)
    assert (entry.tokens_in, entry.tokens_out) == (40, 9)
    (request,) = stub.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["stream"] is True
    assert [m["role"] for m in request["messages"]] == ["system", "user"]
    assert TEXT in request["messages"][1]["content"]
    assert QUERY.text in request["messages"][1]["content"]
    assert stub.keys == [f"Bearer {KEY}"]


def test_a_cut_answer_says_so_and_a_loop_stands_once(stub):
    loop = "The Eiffel Tower is 330 metres tall. " * 3
    stub.answers = [streams(_piece(loop), _piece("The Eiffel Tower is", "length"))]
    (answer,), events, _ = _read(stub)
    assert "".join(e.text for e in events) == loop + "The Eiffel Tower is", "the stream stays what it was"
    assert answer.text == "The Eiffel Tower is 330 metres tall. The Eiffel Tower is"
    assert answer.truncated
    assert [answer.text[s.start:s.end] for s in answer.sentences] == ["The Eiffel Tower is 330 metres tall.",
                                                                      "The Eiffel Tower is"]
    stub.answers = [GOOD]
    stub.requests.clear()
    (answer,), _, _ = _read(stub)
    assert (answer.finish, answer.truncated, answer.verifier) == ("stop", False, "lexical")
    assert answer.sentences[0].entailed


def test_a_server_that_does_not_say_why_it_stopped(stub):
    stub.answers = [streams(_piece("It is tall."))]
    (answer,), _, _ = _read(stub, verifier=None)
    assert (answer.finish, answer.truncated, answer.verifier) == (None, False, None)


def test_non_ascii_text_arrives_whole(stub):
    stub.answers = [streams(_piece("Größe: 330 m — "), _piece("日本語 🗼"), _piece("", "stop"))]
    (answer,), events, _ = _read(stub)
    assert answer.text == "Größe: 330 m — 日本語 🗼"
    assert "".join(e.text for e in events) == answer.text
    assert answer.usage.completion_tokens == -(-len(answer.text) // 4)  # the server did not count


def test_without_done_a_finish_reason_ends_the_answer(stub):
    stub.answers = [streams(_piece("It is tall."), _piece("", "stop"), done=False)]
    assert _read(stub)[0][0].text == "It is tall."


def test_too_many_requests_are_tried_again(stub):
    stub.answers = [refuses(429, Retry_After="0"), refuses(503), GOOD]
    (answer,), events, _ = _read(stub)
    assert answer.text.startswith("The Eiffel")
    assert len(stub.requests) == 3
    assert len(events) == 2


def test_retry_after_is_respected(stub, monkeypatch):
    monkeypatch.setattr(chat, "LONGEST_WAIT", 60.0)
    stub.answers = [refuses(429, Retry_After="0.7"), GOOD]
    begun = time.perf_counter()
    _read(stub)
    assert time.perf_counter() - begun >= 0.7


def test_a_refused_key_is_not_tried_again_and_not_shown(stub):
    stub.answers = [refuses(401, f"Incorrect API key provided: {KEY}")]
    error = _fails(stub)
    assert "401" in error.what
    assert "***" in error.what
    assert "OPENAI_API_KEY" in error.hint
    assert len(stub.requests) == 1


def test_a_failing_server_ends_in_an_error(stub):
    stub.answers = [refuses(500, "boom")]
    error = _fails(stub, retries=2)
    assert "500" in error.what
    assert "boom" in error.what
    assert len(stub.requests) == 3


def test_a_hang_up_before_the_answer_is_tried_again(stub):
    stub.answers = [breaks_off(), GOOD]
    assert _read(stub)[0][0].text.startswith("The Eiffel")


def test_a_hang_up_in_the_answer_is_an_error(stub):
    stub.answers = [breaks_off(_piece("The Eiffel"))]
    error = _fails(stub)
    assert "after 10 characters" in error.what
    assert len(stub.requests) == 1
    stub.answers = [streams(_piece("The Eiffel"), done=False)]
    assert "ended before the answer" in _fails(stub).what


def _page(handler):
    _head(handler, 200, "text/html")
    handler.wfile.write(f"<html>\n<body>Log in {KEY}</body></html>".encode())


@pytest.mark.parametrize("garbage", [
    streams('{"choices": [{"delta": {"content": "half'), streams('{"nothing": 1}'), streams("[]"), streams("null"),
    _page,
    streams({"error": {"message": f"overloaded {KEY}"}}), streams({"choices": [{"delta": {"content": 5}}]}),
])
def test_garbage_is_an_error(stub, garbage):
    stub.answers = [garbage]
    _fails(stub)
    assert len(stub.requests) == 1


def test_no_server_is_an_error(stub):
    stub.url = "http://127.0.0.1:9/v1"
    assert "connection failed" in _fails(stub, retries=1).what


def test_a_silent_server_runs_into_the_timeout(stub):
    stub.answers = [lambda handler: time.sleep(1.5)]
    reader = RemoteReader("m", base_url=stub.url, timeout=0.2, retries=0)
    with pytest.raises(RemoteError, match="ReadTimeout"):
        reader.apply([QUERY], [_ranking(TEXT)])


def test_a_batch_runs_at_the_same_time_and_keeps_its_order(stub):
    # counted while a request waits, as a client goes on once it has its answer, before the server's thread does
    busy, seen = [], []

    def slowly(handler):
        busy.append(handler)
        seen.append(len(busy))
        time.sleep(0.2)
        busy.remove(handler)
        GOOD(handler)

    stub.answers = [slowly]
    queries = [Query(f"Is it number {i}?", id=str(i)) for i in range(6)]
    rankings = [_ranking(f"Number {i}.") if i != 3 else _ranking() for i in range(6)]
    answers, events, _ = _read(stub, queries, rankings, concurrency=3)
    assert 2 <= max(seen) <= 3
    assert len(stub.requests) == 5
    assert answers[3].text == NOTHING_FOUND
    assert answers[3].citations == ()
    assert {e.query for e in events} == set(range(6))
    assert all(a.context.passages[0].text == f"Number {i}." for i, a in enumerate(answers) if i != 3)


def test_parameters_replace_what_the_settings_make(stub):
    stub.answers = [GOOD]
    _read(stub, parameters={"max_tokens": None, "max_completion_tokens": 7}, seed=5, temperature=0.5)
    (request,) = stub.requests
    assert "max_tokens" not in request
    assert request["max_completion_tokens"] == 7
    assert (request["seed"], request["temperature"], request["model"]) == (5, 0.5, "a-model")


def test_the_budget_counts_with_a_tokenizer_or_by_characters(stub):
    stub.answers = [GOOD]
    texts = ["supercalifragilistic " * 4, "a b c d e f g h " * 4]
    by_characters, by_tokens = [], []
    for found, tokenizer in ((by_characters, None), (by_tokens, resolve("minilm").path)):
        (answer,), _, _ = _read(stub, rankings=[_ranking(*texts)], budget=46, tokenizer=tokenizer)
        found.extend(p.id for p in answer.context.passages)
    assert by_characters == ["p1", "p0"]  # 84 + 64 characters
    assert by_tokens == ["p0"]


def test_without_a_key_none_is_sent(stub, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    stub.answers = [GOOD]
    _read(stub)
    assert stub.keys == [None]


def test_settings_that_cannot_work_are_refused(stub, monkeypatch):
    with pytest.raises(ConfigError, match="password") as caught:
        RemoteReader("m", base_url="http://user:hunter2@host/v1")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="not an http address"):
        RemoteReader("m", base_url="ftp://host")
    with pytest.raises(ConfigError, match=r"passages.*question"):
        RemoteReader("m", instruction="Answer!")
    monkeypatch.setenv("OPENAI_API_KEY", "with\nline")
    with pytest.raises(ConfigError, match="cannot be sent") as caught:
        _read(stub)
    assert "line" not in caught.value.what


def test_problems_are_found_before_a_request(stub, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert not list(RemoteReader("m", base_url=stub.url).check())
    monkeypatch.delenv("OPENAI_API_KEY")
    (problem,) = RemoteReader("m").check()
    assert "OPENAI_API_KEY" in problem.what
    monkeypatch.setenv("OPENAI_BASE_URL", stub.url)
    assert not list(RemoteReader("m").check())
    (problem,) = RemoteReader("m", tokenizer="./nowhere").check()
    assert "no model" in problem.what
    assert not RemoteReader("m").deterministic
