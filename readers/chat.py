"""A client for the chat protocol that OpenAI's servers, vLLM, llama.cpp, Ollama and many others speak: one streamed
completion.

The key is read from the environment when a request is made and is kept nowhere. It goes to the server's own address
alone, over https (or to this machine), and where a pipeline file names the server or the variable, only if
``rag.trust`` allows it. What a server says is shown without it, and no more of it is read than the limits below.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..rag import trust
from ..rag.errors import ConfigError, RemoteError
from ..rag.nouns import Usage
from .masking import MaskedStream, Secret, longest, masked

if TYPE_CHECKING:
    import httpcore
    import httpx

OPENAI = "https://api.openai.com/v1"
OWN_VARIABLE = "OPENAI_API_KEY"
"""The variable that goes with ``$OPENAI_BASE_URL``: who set that meant both."""
LONGEST_WAIT = 60.0
"""Seconds that are waited before another try, at most, whatever the server asks for."""

MOST_BODY = 64 * 1024 * 1024
"""Bytes of a response, of which one line is in memory at a time."""
MOST_LINE = 1024 * 1024
"""Bytes of one line or event of a response."""
MOST_ERROR = 64 * 1024
"""Bytes of a refusal's body that are read."""
MOST_ANSWER = 1024 * 1024
"""Characters of an answer. One that is longer ends there, with ``finish`` "length"."""

_LONGEST_MESSAGE = 600
"""Characters of an error that a server's own words may fill."""
_LONGEST_FINISH = 40
_A_LINE = 64
"""Bytes that a line takes in memory, however short it is."""
_LINE_END = re.compile(rb"\r\n|\n|\r")

_FINISHES = {"content_filter": "filter", "max_tokens": "length", "end_turn": "stop", "eos": "stop"}
"""Other servers' words for OpenAI's, and OpenAI's for ours."""

_HINTS = {
    400: "the server does not accept the request: look at model, budget (the prompt may be too long) and parameters",
    401: "the server does not accept the key: set the environment variable {key}",
    403: "the key may not use this model: look at the environment variable {key}",
    404: "look at base_url (it usually ends in /v1) and model",
    429: "the server limits the rate: lower concurrency, or try again later",
}
_REDIRECT_HINT = ("name the address where the server is in base_url: no redirect is followed, lest the key goes "
                  "elsewhere")
_SERVER_HINT = "the server failed: try again later, or raise retries"
_PROTOCOL_HINT = "look at base_url: this does not speak the chat protocol, or something stands between"
_NETWORK_HINT = "look at base_url and the network, or raise timeout"
_DEADLINE_HINT = "raise deadline, or lower max_new_tokens"


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server wrote; ``usage`` is None when it did not count, ``finish`` (as in ``Answer``) when it did not
    say."""

    text: str
    usage: Usage | None
    finish: str | None = None


class ChatClient:
    """Completions from one server. Safe to use from several threads."""

    def __init__(
        self, base_url: str | None, key_variable: str | None, *, timeout: float, retries: int, deadline: float = 300.0,
        origin: trust.FileOrigin | None = None,
    ) -> None:
        """``base_url`` None is ``$OPENAI_BASE_URL``, else OpenAI's; ``key_variable`` None: no key. ``timeout`` bounds
        each wait for the server, ``deadline`` a completion with all its tries. Raises ``ConfigError`` for a URL that
        cannot be used."""
        from .http import connect

        self.endpoint = f"{checked_url(base_url)}/chat/completions"
        self._base_url = base_url
        self._key_variable = key_variable
        self._origin = origin
        self._timeout = timeout
        self._deadline = deadline
        self._retries = retries
        self._url = _parsed(self.endpoint)
        self._pool = connect(self._url)

    def close(self) -> None:
        self._pool.close()

    def complete(
        self, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any], on_text: Callable[[str], None],
    ) -> Completion:
        """One streamed completion; ``on_text`` gets the text as it comes.

        A refused connection, a timeout, status 429 and 5xx are tried again, with growing waits (or as long as
        ``Retry-After`` says), as long as no text has come and the deadline is not over. Raises ``RemoteError``, and
        ``ConfigError`` for a key that cannot or may not be sent.
        """
        from .http import within

        body = {"messages": list(messages), "stream": True, "stream_options": {"include_usage": True}, **parameters}
        body = {name: value for name, value in body.items() if value is not None}
        ends = time.monotonic() + self._deadline
        for attempt in range(self._retries + 1):
            try:
                with within(ends - time.monotonic()):
                    return self._attempt(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"), on_text)
            except _Again as again:
                wait = min(LONGEST_WAIT, again.wait if again.wait is not None else 0.5 * 2**attempt)
                if attempt == self._retries or time.monotonic() + wait >= ends:
                    raise again.error from None
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, body: bytes, on_text: Callable[[str], None]) -> Completion:
        from .http import FAILURES, OutOfTime, post

        key = self._key()
        reading = _Reading(on_text, key)
        try:
            with post(self._pool, self._url, self._headers(key), body, self._timeout) as response:
                if response.status != 200:
                    raise self._refused(response, key)
                reading.read(response)  # there, so that no variable here holds what a server says
        except OutOfTime:
            after = f", after {reading.length} characters" if reading.length else ""
            raise self._error(f"the answer took longer than the deadline of {self._deadline:g} s{after}",
                              _DEADLINE_HINT, key) from None
        except FAILURES as error:
            raise self._broken(f"the connection failed: {_said(error)}", reading, _NETWORK_HINT, key) from None
        except _Malformed as error:
            raise self._error(str(error), _PROTOCOL_HINT, key) from None
        if not reading.ended:
            raise self._broken("the stream ended before the answer did", reading, _NETWORK_HINT, key)
        return reading.completion()

    def _headers(self, key: Secret) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json",
                   "Accept-Encoding": "identity",
                   "User-Agent": "regard"}
        return {**headers, "Authorization": f"Bearer {key.reveal()}"} if key else headers  # a local server needs none

    def _key(self) -> Secret:
        """The key to send, empty for none. Raises ``ConfigError`` for one that cannot or may not be sent."""
        if self._key_variable is None:
            return Secret("")
        key = Secret(os.environ.get(self._key_variable, "").strip())
        if not (key.reveal().isascii() and key.reveal().isprintable()):  # an HTTP library's own complaint would show it
            raise ConfigError(f"the key in the environment variable {self._key_variable} has characters that cannot be "
                              f"sent",
                              where=self.endpoint, hint="set it to the key alone, without quotes or line ends")
        if key:
            asked = connection(self._base_url, self._key_variable, self._origin)
            if asked.refused:
                raise ConfigError(asked.refused, where=self.endpoint, hint=asked.hint)
        return key

    def _refused(self, response: httpcore.Response, key: Secret) -> Exception:
        status = response.status
        hint = _SERVER_HINT if status >= 500 else _REDIRECT_HINT if 300 <= status < 400 else _HINTS.get(status,
                                                                                                        _HINTS[400])
        reason = response.extensions.get("reason_phrase", b"").decode("latin-1")
        what = f"the server answered {status} {reason}: {_message(_beginning(response, key))}".rstrip(": ")
        error = self._error(what, hint.format(key=self._key_variable or "that api_key_env names"), key)
        return _Again(error, _retry_after(response)) if status == 429 or status >= 500 else error

    def _broken(self, what: str, reading: _Reading, hint: str, key: Secret) -> Exception:
        """Text that was already shown cannot be taken back, so only a stream that gave none is tried again."""
        if not reading.length:
            return _Again(self._error(what, hint, key), None)
        return self._error(f"{what}, after {reading.length} characters", hint, key)

    def _error(self, what: str, hint: str, key: Secret) -> RemoteError:
        """The key is taken out before the text is shortened, lest half of it stays."""
        return RemoteError(" ".join(masked(what, key).split())[:_LONGEST_MESSAGE], where=self.endpoint, hint=hint)


def checked_url(base_url: str | None) -> str:
    """The server's address without a slash at its end. Raises ``ConfigError`` when it is none, or carries a
    password."""
    address = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
    url = _parsed(address)
    if url.userinfo:
        raise ConfigError("base_url carries a password", where=f"{url.scheme}://...@{url.host}",
                          hint="put the secret in an environment variable and name that in api_key_env")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"base_url is not an http address: {address!r}", where="base_url",
                          hint=f"write it like {OPENAI}")
    return address


def _parsed(address: str) -> httpx.URL:
    import httpx

    try:
        return httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ConfigError(f"base_url cannot be read: {error}", where="base_url",
                          hint=f"write it like {OPENAI}") from None


def connection(base_url: str | None, variable: str | None, origin: trust.FileOrigin | None) -> trust.Connection:
    """The server with the key variable, and whether that may go there. ``origin`` None: the user wrote both."""
    from .http import is_loopback

    url = _parsed(checked_url(base_url))
    host = url.netloc.decode("ascii")
    present = bool(variable and os.environ.get(variable, "").strip())
    local = is_loopback(url.host)
    if variable is None or (local and not present):  # nothing to send, nor is anything missing
        return trust.Connection(host, variable, present)
    if url.scheme == "http" and not local:
        return trust.Connection(host, variable, present, f"the key in {variable} would go to {host} in the clear",
                                "use https, or null in api_key_env for a server that needs no key")
    if origin is None or _is_users(base_url, variable, origin):
        return trust.Connection(host, variable, present)
    default = 443 if url.scheme == "https" else 80
    rules = (*trust.users_rules(), *origin.rules)
    if trust.allows(rules, url.raw_host.decode("ascii").strip("[]"), url.port or default, default, variable):
        return trust.Connection(host, variable, present)
    return trust.Connection(host, variable, present,
                            f"the file would send the key in {variable} to {host}, which you have not allowed",
                            f"if you trust that server with this key: --allow-key {host}={variable}, or the same in "
                            f"REGARD_KEYS; "
                            "for no key: null in api_key_env")


def _is_users(base_url: str | None, variable: str, origin: trust.FileOrigin) -> bool:
    """Whether the user has named server and variable, and the file neither."""
    server = "base_url" in origin.overridden or (base_url is None and "OPENAI_BASE_URL" in os.environ)
    return server and ("api_key_env" in origin.overridden or (base_url is None and variable == OWN_VARIABLE))


class _Again(Exception):  # not an error: it says that another try makes sense
    def __init__(self, error: RemoteError, wait: float | None) -> None:
        super().__init__(error)
        self.error = error
        self.wait = wait


class _Malformed(ValueError):
    """The server's stream is not the protocol's."""


class _Reading:
    """What has come so far of one stream. What the server repeats of the key is taken out, also where it comes in
    pieces."""

    def __init__(self, on_text: Callable[[str], None], key: Secret) -> None:
        self._key = key
        self._pieces: list[str] = []
        self._on_text = on_text
        self._stream = MaskedStream(key, self._pass_on)
        self._usage: Usage | None = None
        self._finish: str | None = None
        self.length = 0
        """Characters of the answer so far."""
        self.ended = False

    def read(self, response: httpcore.Response) -> None:
        if _header(response, "content-encoding") not in ("", "identity"):
            raise _Malformed("the server answered with a compressed body, which was not asked for")
        for data in _events(_lines(response.iter_stream())):
            if not self.take(data):
                return

    def take(self, data: str) -> bool:
        """Take one event's data; False after the last, and where the answer has become too long."""
        if data == "[DONE]":
            self.ended = True
            return False
        try:
            self._chunk(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            if isinstance(error, _Malformed):
                raise
            raise _Malformed(f"the server's stream cannot be read: {data}") from None
        return self.length < MOST_ANSWER

    def completion(self) -> Completion:
        self._stream.finish()
        return Completion(masked("".join(self._pieces), self._key), self._usage, self._finish)

    def _chunk(self, chunk: Mapping[str, Any]) -> None:
        if chunk.get("error"):
            raise _Malformed(f"the server broke off: {_message(json.dumps(chunk))}")
        if chunk.get("usage"):
            self._usage = Usage(int(chunk["usage"]["prompt_tokens"]), int(chunk["usage"]["completion_tokens"]))
        for choice in chunk["choices"][:1]:
            piece = (choice.get("delta") or {}).get("content") or ""
            if not isinstance(piece, str):
                raise TypeError("text must be text")
            self._take_text(piece[:MOST_ANSWER - self.length])
            if choice.get("finish_reason") is not None:
                self._finish = self._finish or _our_word(str(choice["finish_reason"]))
                self.ended = True

    def _pass_on(self, piece: str) -> None:
        self._pieces.append(piece)
        self._on_text(piece)

    def _take_text(self, piece: str) -> None:
        self.length += len(piece)
        self._stream(piece)
        if self.length >= MOST_ANSWER:
            self.ended, self._finish = True, "length"


def _our_word(reason: str) -> str:
    """``Answer.finish`` for a server's ``finish_reason``; a word that is none is "other"."""
    word = _FINISHES.get(reason, reason)
    return word if re.fullmatch(rf"[a-z_]{{1,{_LONGEST_FINISH}}}", word) else "other"


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """The lines of a body, which end at CR LF, LF or CR. Raises ``_Malformed`` for a body or a line that is too
    long."""
    begun: list[bytes] = []
    total, size, after_cr = 0, 0, False
    for chunk in chunks:
        total += len(chunk)
        if total > MOST_BODY:
            raise _Malformed(f"the server's answer has more than {MOST_BODY:,} bytes")
        if after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        after_cr = chunk.endswith(b"\r")
        *ended, rest = _LINE_END.split(chunk)
        for piece in ended:
            yield b"".join([*begun, piece]).decode("utf-8", "replace")
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > MOST_LINE:
            raise _Malformed(f"the server's answer has a line of more than {MOST_LINE:,} bytes")
    if size:
        yield b"".join(begun).decode("utf-8", "replace")


def _events(lines: Iterator[str]) -> Iterator[str]:
    """The data of server-sent events (WHATWG HTML, 9.2): lines ``data: ...``, an event a blank line; others are
    comments.

    A body that is no event stream at all is one malformed event.
    """
    data: list[str] = []
    size = 0
    for line in lines:
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
            size += len(value) + _A_LINE
            if size > MOST_LINE:
                raise _Malformed(f"the server's answer has an event of more than {MOST_LINE:,} bytes")
        elif not line and data:
            yield "\n".join(data)
            data, size = [], 0
        elif line and field not in ("", "event", "id", "retry"):
            raise _Malformed(f"the server did not answer with an event stream: {line}")
    if data:
        yield "\n".join(data)


def _beginning(response: httpcore.Response, key: Secret) -> str:
    """A refusal's body, as far as it is read; without what may be half a key at the end of one that goes on."""
    if _header(response, "content-encoding") not in ("", "identity"):
        return ""
    data = b""
    for chunk in response.iter_stream():
        data += chunk
        if len(data) > MOST_ERROR:
            return data[:max(0, MOST_ERROR - longest(key))].decode("utf-8", "replace")
    return data.decode("utf-8", "replace")


def _header(response: httpcore.Response, name: str) -> str:
    return next((value.decode("latin-1").strip().lower() for key, value in response.headers
                 if key.decode("latin-1").lower() == name), "")


def _message(body: str) -> str:
    """What the server says in an error's body."""
    try:
        error = json.loads(body)["error"]
        said = error["message"] if isinstance(error, dict) else error
    except (ValueError, TypeError, KeyError, RecursionError):
        said = body
    return str(said)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _retry_after(response: httpcore.Response) -> float | None:
    """Seconds; a date is left to our own waits."""
    value = _header(response, "retry-after")
    return float(value) if value.isascii() and value.replace(".", "", 1).isdigit() else None
