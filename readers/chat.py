"""A client for the chat protocol that OpenAI's servers, vLLM, llama.cpp, Ollama and many others speak: one streamed completion.

The key is read from the environment when a request is made and is kept nowhere; what a server says is shown without it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..rag.documents import Usage
from ..rag.errors import ConfigError, RemoteError

if TYPE_CHECKING:
    import httpx

OPENAI = "https://api.openai.com/v1"
LONGEST_WAIT = 60.0
"""Seconds that are waited before another try, at most, whatever the server asks for."""

_LONGEST_MESSAGE = 600
"""Characters of an error that a server's own words may fill."""

_HINTS = {
    400: "the server does not accept the request: look at model, budget (the prompt may be too long) and parameters",
    401: "the server does not accept the key: set the environment variable {key}",
    403: "the key may not use this model: look at the environment variable {key}",
    404: "look at base_url (it usually ends in /v1) and model",
    429: "the server limits the rate: lower concurrency, or try again later",
}
_SERVER_HINT = "the server failed: try again later, or raise retries"
_PROTOCOL_HINT = "look at base_url: this does not speak the chat protocol, or something stands between"
_NETWORK_HINT = "look at base_url and the network, or raise timeout"


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server wrote; ``usage`` is None when it did not count, ``finish`` (its ``finish_reason``) when it did not say."""

    text: str
    usage: Usage | None
    finish: str | None = None


class ChatClient:
    """Completions from one server. Safe to use from several threads."""

    def __init__(self, base_url: str | None, key_variable: str, *, timeout: float, retries: int) -> None:
        """``base_url`` None is ``$OPENAI_BASE_URL``, else OpenAI's. Raises ``ConfigError`` for a URL that cannot be used."""
        import httpx

        self.endpoint = f"{checked_url(base_url)}/chat/completions"
        self._key_variable = key_variable
        self._retries = retries
        self._http = httpx.Client(timeout=timeout)

    def close(self) -> None:
        self._http.close()

    def complete(
        self, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any], on_text: Callable[[str], None],
    ) -> Completion:
        """One streamed completion; ``on_text`` gets the text as it comes.

        A refused connection, a timeout, status 429 and 5xx are tried again, with growing waits (or as long as ``Retry-After``
        says), as long as no text has come. Raises ``RemoteError``, and ``ConfigError`` for a key that cannot be sent.
        """
        body = {"messages": list(messages), "stream": True, "stream_options": {"include_usage": True}, **parameters}
        body = {name: value for name, value in body.items() if value is not None}
        for attempt in range(self._retries + 1):
            try:
                return self._attempt(body, on_text)
            except _Again as again:
                if attempt == self._retries:
                    raise again.error from None
                time.sleep(min(LONGEST_WAIT, again.wait if again.wait is not None else 0.5 * 2**attempt))
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, body: Mapping[str, Any], on_text: Callable[[str], None]) -> Completion:
        import httpx

        reading = _Reading(on_text)
        try:
            with self._http.stream("POST", self.endpoint, json=body, headers=self._headers()) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused(response)
                for data in _events(response.iter_lines()):
                    if not reading.take(data):
                        break
        except httpx.HTTPError as error:
            raise self._broken(f"the connection failed: {_said(error)}", reading, _NETWORK_HINT) from None
        except _Malformed as error:
            raise self._error(str(error), _PROTOCOL_HINT) from None
        if not reading.ended:
            raise self._broken("the stream ended before the answer did", reading, _NETWORK_HINT)
        return Completion(reading.text, reading.usage, reading.finish)

    def _headers(self) -> dict[str, str]:
        key = self._key()
        return {"Authorization": f"Bearer {key}"} if key else {}  # a local server needs none

    def _key(self) -> str:
        key = os.environ.get(self._key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):  # an HTTP library's own complaint would show it
            raise ConfigError(f"the key in the environment variable {self._key_variable} has characters that cannot be sent",
                              where=self.endpoint, hint="set it to the key alone, without quotes or line ends")
        return key

    def _refused(self, response: httpx.Response) -> Exception:
        status = response.status_code
        hint = _SERVER_HINT if status >= 500 else _HINTS.get(status, _HINTS[400])
        what = f"the server answered {status} {response.reason_phrase}: {_message(response.text)}".rstrip(": ")
        error = self._error(what, hint.format(key=self._key_variable))
        return _Again(error, _retry_after(response)) if status == 429 or status >= 500 else error

    def _broken(self, what: str, reading: _Reading, hint: str) -> Exception:
        """Text that was already shown cannot be taken back, so only a stream that gave none is tried again."""
        if not reading.text:
            return _Again(self._error(what, hint), None)
        return self._error(f"{what}, after {len(reading.text)} characters", hint)

    def _error(self, what: str, hint: str) -> RemoteError:
        """The key is taken out before the text is shortened, lest half of it stays."""
        key = self._key()
        clean = what.replace(key, "***") if key else what
        return RemoteError(" ".join(clean.split())[:_LONGEST_MESSAGE], where=self.endpoint, hint=hint)


def checked_url(base_url: str | None) -> str:
    """The server's address without a slash at its end. Raises ``ConfigError`` when it is none, or carries a password."""
    import httpx

    address = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ConfigError(f"base_url cannot be read: {error}", where="base_url", hint=f"write it like {OPENAI}") from None
    if url.userinfo:
        raise ConfigError("base_url carries a password", where=f"{url.scheme}://...@{url.host}",
                          hint="put the secret in an environment variable and name that in api_key_env")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"base_url is not an http address: {address!r}", where="base_url", hint=f"write it like {OPENAI}")
    return address


class _Again(Exception):  # not an error: it says that another try makes sense
    def __init__(self, error: RemoteError, wait: float | None) -> None:
        super().__init__(error)
        self.error = error
        self.wait = wait


class _Malformed(ValueError):
    """The server's stream is not the protocol's."""


class _Reading:
    """What has come so far of one stream."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self.text = ""
        self.usage: Usage | None = None
        self.finish: str | None = None
        self.ended = False

    def take(self, data: str) -> bool:
        """Take one event's data; False after the last."""
        if data == "[DONE]":
            self.ended = True
            return False
        try:
            self._chunk(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, _Malformed):
                raise
            raise _Malformed(f"the server's stream cannot be read: {data}") from None
        return True

    def _chunk(self, chunk: Mapping[str, Any]) -> None:
        if chunk.get("error"):
            raise _Malformed(f"the server broke off: {_message(json.dumps(chunk))}")
        if chunk.get("usage"):
            self.usage = Usage(int(chunk["usage"]["prompt_tokens"]), int(chunk["usage"]["completion_tokens"]))
        for choice in chunk["choices"][:1]:
            piece = (choice.get("delta") or {}).get("content") or ""
            if piece:
                self.text += piece
                self._on_text(piece)
            if choice.get("finish_reason") is not None:
                self.finish = str(choice["finish_reason"])
                self.ended = True


def _events(lines: Iterator[str]) -> Iterator[str]:
    """The data of server-sent events (WHATWG HTML, 9.2): lines ``data: ...``, an event a blank line; others are comments.

    A body that is no event stream at all is one malformed event.
    """
    data: list[str] = []
    for line in lines:
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
        elif line and field not in ("", "event", "id", "retry"):
            raise _Malformed(f"the server did not answer with an event stream: {line}")
    if data:
        yield "\n".join(data)


def _message(body: str) -> str:
    """What the server says in an error's body."""
    try:
        error = json.loads(body)["error"]
        said = error["message"] if isinstance(error, dict) else error
    except (ValueError, TypeError, KeyError):
        said = body
    return str(said)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds; a date is left to our own waits."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.replace(".", "", 1).isdigit() else None
