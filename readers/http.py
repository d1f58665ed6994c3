"""The connection to one server: what is sent goes there and nowhere else, and it ends when it should.

The environment's proxies are used, and its certificates (``SSL_CERT_FILE``), as the user set them; a machine's own
servers are reached without a proxy. Nothing is read from ``.netrc``, no redirect is followed, and no cookie kept.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from ..rag.errors import ConfigError

FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError,
            httpcore.UnsupportedProtocol)

_now = threading.local()


class OutOfTime(httpcore.TimeoutException):
    """The block of :func:`within` has taken too long."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What the block sends and receives in this thread ends after ``seconds`` in all, however it trickles in, with
    ``OutOfTime``."""
    _now.ends = time.monotonic() + seconds
    try:
        yield
    finally:
        _now.ends = None


def left(timeout: float | None = None) -> float:
    """Seconds that the block has left, at most ``timeout``. Raises ``OutOfTime`` when it has none."""
    ends = getattr(_now, "ends", None)
    remaining = float("inf") if ends is None else ends - time.monotonic()
    if remaining <= 0:
        raise OutOfTime("out of time")
    return remaining if timeout is None else min(timeout, remaining)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Unlogged(logging.Filter):
    """Keeps a response's headers, in which a server may repeat what it was sent, out of httpcore's log while a request
    of ours runs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(_now, "ends",
                       None) is None or not str(record.msg).startswith("receive_response_headers.complete")


_unlogged = _Unlogged()


def connect(url: httpx.URL) -> Any:
    """A pool of connections for ``url``, through the proxy that the environment names for it, if any."""
    logging.getLogger("httpcore.http11").addFilter(_unlogged)
    backend = _TimedBackend()
    secure = httpx.create_ssl_context() if url.scheme == "https" else None
    proxy = _proxy(url)
    if proxy is None:
        return httpcore.ConnectionPool(ssl_context=secure, network_backend=backend)
    auth = (proxy.username, proxy.password) if proxy.userinfo else None
    return httpcore.HTTPProxy(_core(proxy), proxy_auth=auth, ssl_context=secure, network_backend=backend)


def _proxy(url: httpx.URL) -> httpx.URL | None:
    if is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    named = urllib.request.getproxies()
    address = named.get(url.scheme) or named.get("all")
    if not address:
        return None
    proxy = httpx.URL(address if "://" in address else f"http://{address}")
    if proxy.scheme not in ("http", "https"):
        raise ConfigError(f"a proxy of the kind {proxy.scheme} is not supported",
                          where=f"the environment's proxy for {url.scheme}",
                          hint="name an http proxy, or except the server in NO_PROXY")
    return proxy


def _core(url: httpx.URL) -> httpcore.URL:
    """The same address, by the same reading of it."""
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


@contextmanager
def post(pool: Any, url: httpx.URL, headers: dict[str,
                                                  str], body: bytes, timeout: float) -> Iterator[httpcore.Response]:
    """One request and its response, whose body is not read; ``timeout`` bounds each wait."""
    encoded = [(b"Host", url.netloc), *((name.encode(), value.encode()) for name, value in headers.items())]
    limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
    with pool.stream("POST", _core(url), headers=[*encoded, (b"Content-Length", str(len(body)).encode())], content=body,
                     extensions={"timeout": limits}) as response:
        yield response


class _TimedBackend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._inner.connect_tcp(host, port, left(timeout), local_address, socket_options))


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None,
                  timeout: float | None = None) -> httpcore.NetworkStream:
        return _TimedStream(self._inner.start_tls(ssl_context, server_hostname, left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
