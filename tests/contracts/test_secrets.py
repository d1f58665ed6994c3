"""Secrets: keys are planted in the environment, and everything that leaves the process is read for them, in every form.

They may be in one place: the Authorization header of a request to the server that may have them.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import logging
import os
import re
import socket
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from regard.indexers import build_index
from regard.rag import Document, Pipeline
from regard.rag.app import cli
from regard.rag.app.batch import run_queries
from regard.rag.app.terminal.found import answer_json
from regard.rag.dag.scope import Scope
from regard.rag.dag.trace import TextDelta
from regard.rag.errors import RegardError
from regard.rag.models.encoding import Encoder, OpenEncoder
from regard.rag.nouns import Query
from regard.rag.parts import part
from regard.rag.show.report import ReportEntry, report_html

from ..wires import HEAD, wire

KEY = 'sk-Pl4nted/k3y+with=every"kind\\of&sign'
OTHERS = {"AWS_SECRET_ACCESS_KEY": "AKIA0th3rS3cretOfTheUser/+x", "HF_TOKEN": "hf_0th3rT0kenOfTheUser",
          "OPENAI_API_KEY": "sk-0penAIsKeyOfTheUser"}
LEAST = 8
"""Characters in a row that give a key away."""

PARTS = {key[i:i + LEAST] for key in (KEY, *OTHERS.values()) for i in range(len(key) - LEAST + 1)}

FILE = """regard: 2
stages:
  bm25: {part: BM25, inputs: [query], index: INDEX, k: 3}
  read: {part: RemoteReader, inputs: [query, bm25],
         model: m, base_url: "URL", api_key_env: PLANTED, retries: 0, timeout: 5,
         verifier: null}
outputs: {passages: bm25, answer: read}
"""


def decoded(text: str) -> list[str]:
    """``text``, and what can be read from it: unquoted, unescaped, and out of base64 and hexadecimal."""
    found = [text, urllib.parse.unquote(urllib.parse.unquote(text)), html.unescape(text), text.replace("\\", ""),
             re.sub(r"\\+u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)]
    for word in set(re.findall(r"[A-Za-z0-9+/_-]{12,}", urllib.parse.unquote(text))):
        standard = word.replace("-", "+").replace("_", "/")
        found += [base64.b64decode(standard[i:][:(len(standard) - i) // 4 * 4]).decode("latin-1") for i in range(4)]
        if re.fullmatch("([0-9a-fA-F]{2})+", word):
            found.append(bytes.fromhex(word).decode("latin-1"))
    return found


def leaks(text: str) -> list[str]:
    """The parts of planted keys that stand in ``text``."""
    return sorted({part for one in decoded(text) for part in PARTS if part in one})


def test_what_looks_for_leaks_finds_them() -> None:
    """The search itself, on the forms that the servers below write."""
    for form in FORMS.values():
        assert leaks(f"<p>it said {form(KEY)} so</p>"), form(KEY)
    assert not leaks("nothing of the kind: sk-, hf_, AKIA and ***")


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str, "percent": lambda key: urllib.parse.quote(key, safe=""),
    "twice": lambda key: urllib.parse.quote(urllib.parse.quote(key, safe="")),
    "json": lambda key: json.dumps(key), "html": html.escape,
    "unicode": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "hex": lambda key: key.encode().hex(), "bearer": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "user": lambda key: base64.urlsafe_b64encode(f"user:{key}".encode()).decode().rstrip("="),
    "alone": lambda key: base64.b64encode(key.encode()).decode(),
}


def _chunk(**delta: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": None}]}).encode() + b"\n\n"


def _said(form: str) -> list[bytes]:
    """What a server says that repeats the key, in each place where it can."""
    escaped = json.dumps(form).encode()
    refusal = b'{"error": {"message": ' + escaped + b"}}"
    end = b'data: {"choices": [{"delta": {}, "finish_reason": ' + escaped + b"}]}\n\n"
    half = form.encode()
    return [
        b"HTTP/1.1 401 No\r\nX-Echo: " + half + b"\r\nConnection: close\r\n\r\n" + refusal,
        b"HTTP/1.1 403 " + half + b"\r\nConnection: close\r\n\r\n" + half * 3000,
        b"HTTP/1.1 500 No\r\nConnection: close\r\n\r\n" + b" " * 65_500 + half,
        HEAD + half, HEAD + b"data: " + half + b"\n\n", HEAD + b'data: {"error": ' + escaped + b"}\n\n", HEAD + end,
        HEAD + _chunk(content=f"The key is {form}, as you know. ") + end,
        HEAD + b"".join(_chunk(content=c) for c in f"So: {form}.") + b"data: [DONE]\n\n",
        b"".join(b"X: " + half + b"\r\n" for _ in range(3)), b"HTTP/1.1 200 " + half + b"\r\n" + half,
    ]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> Iterator[None]:
    """The readers' encoder, so that no test waits for it."""
    with Scope() as scope:
        scope.open(part(Encoder, "minilm"))
        yield


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name, value in {**OTHERS, "PLANTED": KEY}.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "regard-cache"))
    index = tmp_path / "index"
    build_index([Document("d", "The tower is 330 metres tall.")], index, encoder=None, views=["bm25"], progress=False)
    return tmp_path


def _with_variables(error: BaseException) -> str:
    """The traceback as an error tracker sends it: each of our frames with its variables."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(f"{frame.name}: {frame.locals}" for frame in told.stack if frame.filename != __file__)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_nothing_that_leaves_the_process_has_a_key(form: str, planted: Path, caplog: pytest.LogCaptureFixture,
                                                   capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    answers = iter(_said(FORMS[form](KEY)))
    current: list[bytes] = [b""]
    (planted / "queries.jsonl").write_text('{"_id": "q1", "text": "How tall is the tower?"}\n')
    left: list[str] = []
    with wire(lambda connection: connection.sendall(current[0])) as server:
        path = planted / "p.yaml"
        path.write_text(FILE.replace("INDEX", str(planted / "index")).replace("URL", server.url))
        pipeline = Pipeline.load(path, allow_keys=[f"127.0.0.1:{server.port}=PLANTED"])
        pipeline.cache = planted / "cache"
        (planted / "saved").mkdir()
        pipeline.save(planted / "saved" / "again.yaml")
        for current[0] in answers:
            try:
                events = list(pipeline.stream("How tall is the tower?"))
                left += [event.text for event in events if isinstance(event, TextDelta)]
                left.append("".join(event.text for event in events if isinstance(event, TextDelta)))
                left.append(repr(events))
                result = events[-1].result
                left += [json.dumps(answer_json(result.answer)), json.dumps(result.answer.to_dict()),
                         json.dumps(result.trace.to_dict()),
                         result._repr_html_(), report_html("r", pipeline.graph(), [ReportEntry(
                             Query("How tall?"), result.passages, result.answer, result.trace)])]
                run_queries(pipeline, planted / "queries.jsonl", planted / "run.trec",
                            answers=planted / "answers.jsonl")
            except RegardError as error:
                left += [str(error), repr(error), "".join(traceback.format_exception(error)), _with_variables(error)]
        left += [pipeline.to_svg(), pipeline.to_mermaid(), repr(pipeline.nodes), repr(pipeline.connections()),
                 repr(pipeline.check())]
        left += [node.stage.fingerprint() for node in pipeline.nodes.values()]
        pipeline.close()
    left += [record.getMessage() + repr(record.args) for record in caplog.records]
    captured = capfd.readouterr()
    left += [captured.out, captured.err]
    left += [file.read_bytes().decode("latin-1") for file in planted.rglob("*") if file.is_file()]
    assert len(left) > 40
    found = {text[max(0, min(text.find(p) for p in parts) - 300):][:700]: parts[:3] for text in left
             if (parts := leaks(text))}
    assert not found
    assert len(server.received) >= len(_said(""))
    for request in server.received:
        head, _, rest = request.decode("latin-1").partition(f"Authorization: Bearer {KEY}\r\n")
        assert rest, "the server that may have it gets it"
        assert not leaks(head + rest)


def test_a_redirect_takes_no_key_elsewhere(planted: Path) -> None:
    with wire(lambda c: c.sendall(HEAD)) as elsewhere:
        moved = (f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}/chat/completions\r\n"
                 "Content-Length: 0\r\n\r\n").encode()
        with wire(lambda c: c.sendall(moved)) as server:
            (planted / "p.yaml").write_text(FILE.replace("INDEX", str(planted / "index")).replace("URL", server.url))
            with pytest.raises(RegardError, match="307"):
                Pipeline.load(planted / "p.yaml", allow_keys=[f"127.0.0.1:{server.port}=PLANTED"]).run("How tall?")
        assert not elsewhere.received


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies_netrc_and_cookies_get_and_give_nothing(scheme: str, planted: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy sees the name of the server and no key; a server of this machine is not reached through one."""
    (planted / "home").mkdir()
    (planted / "home" / ".netrc").write_text(f"default login me password {OTHERS['AWS_SECRET_ACCESS_KEY']}\n")
    (planted / "home" / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(planted / "home" / ".netrc"))
    cookie = HEAD.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n") + _chunk(content="It is.") + b"data: [DONE]\n\n"
    refused = b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n"
    with wire(lambda c: c.sendall(refused)) as proxy, wire(lambda c: c.sendall(cookie)) as local:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{proxy.port}")
        url = local.url if scheme == "http" else "https://far.example/v1"
        text = FILE.replace("INDEX", str(planted / "index")).replace("URL", url)
        (planted / "p.yaml").write_text(text)
        rule = f"127.0.0.1:{local.port}=PLANTED" if scheme == "http" else "far.example=PLANTED"
        pipeline = Pipeline.load(planted / "p.yaml", allow_keys=[rule])
        if scheme == "http":
            pipeline.run("How tall?")
            pipeline.run("How tall?")
            assert not proxy.received
            assert not any(b"cookie" in request.lower() for request in local.received)
            assert not any(b"AKIA" in request for request in local.received)
        else:
            with pytest.raises(RegardError):
                pipeline.run("How tall?")
            (request,) = proxy.received
            assert request.startswith(b"CONNECT far.example:443")
            assert not leaks(request.decode("latin-1"))
        pipeline.close()


def test_a_file_sends_nothing_at_all_where_it_may_not(planted: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *a,
                        **k: asked.append(a) or (_ for _ in ()).throw(OSError("no")))
    for url in ("https://evil.example/v1", "http://evil.example/v1", "http://127.0.0.1:9/v1"):
        (planted / "p.yaml").write_text(FILE.replace("INDEX", str(planted / "index")).replace("URL", url))
        monkeypatch.setattr("sys.argv", ["regard", "search", str(planted / "index"), "How tall?", "--pipeline",
                                         str(planted / "p.yaml")])
        with pytest.raises(SystemExit):
            cli.main()
        shown = capfd.readouterr()
        assert "not allowed" in shown.err or "in the clear" in shown.err
        assert not leaks(shown.out + shown.err)
    assert not asked


def test_an_index_holds_no_key(planted: Path) -> None:
    (planted / "docs").mkdir()
    (planted / "docs" / "a.md").write_text("# A\n\nText.")

    class OpenBreaks(OpenEncoder):
        name, dimension = "breaks", 4

        def encode_passages(self, texts: list[str]) -> object:
            raise RuntimeError("the job breaks off")

    class Breaks(Encoder):
        name, dimension = "breaks", 4

        def description(self) -> dict[str, object]:
            return {"kind": "mine", "model": "breaks", "dimension": 4}

        def open(self, scope: Scope, /) -> OpenBreaks:
            return OpenBreaks()

    with pytest.raises(RuntimeError), contextlib.redirect_stderr(io.StringIO()):
        build_index([planted / "docs"], planted / "broken", encoder=Breaks(), progress=False)
    assert (planted / "broken" / "unfinished.json").exists()
    assert os.environ["PLANTED"] == KEY
    for file in planted.rglob("*"):
        if file.is_file():
            assert not leaks(file.read_bytes().decode("latin-1")), file
