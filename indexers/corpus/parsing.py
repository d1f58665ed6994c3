"""Parsing with a limit on time and memory: in this process what is short and safe, the rest in one that can be ended.

One parser process serves this whole process. It is started by the first document that needs it, ended by a document
that goes over a limit (the next one starts another), by ``close``, and when this process ends.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

from . import parser_process, parsers
from .limits import Limits
from .skips import Unreadable

_SHORT = 200_000
"""Bytes of HTML or Markdown that are parsed here: of the worst that we know, about a second's work."""

_LOADER_SETTINGS = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "LANG", "TMPDIR")


def parse(kind: str, data: bytes, limits: Limits) -> Any:
    """What ``parsers.parse`` gives. Raises ``Unreadable`` for a document that cannot be parsed, or not within the
    limits."""
    if kind != "pdf" and len(data) <= _SHORT:
        return parsers.parse(kind, data)
    with _lock:
        answer = _process(limits.memory_bytes).ask(kind, data, limits)
    if "characters" in answer:
        raise limits.over(f"a text of {answer['characters']:,} characters", "document_characters")
    if "unreadable" in answer:
        raise Unreadable(answer["unreadable"])
    return answer["parsed"]


def close() -> None:
    """End the parser process, if there is one."""
    global _running
    with _lock:
        running, _running = _running, None
    if running is not None:
        running.end()


class _ParserProcess:
    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.owner = os.getpid()
        # it gets none of the environment's secrets, and no Ctrl-C: the job ends it
        environment = {name: os.environ[name] for name in _LOADER_SETTINGS if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        script = str(Path(parser_process.__file__))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", script, str(memory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
        )

    @property
    def running(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def ask(self, kind: str, data: bytes, limits: Limits) -> dict[str, Any]:
        """Raises ``Unreadable`` where the process did not survive the document."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests
        assert answers
        try:
            requests.write(f"{kind} {limits.seconds} {limits.document_characters} {len(data)}\n".encode())
            requests.write(data)
            requests.flush()
            size = answers.readline()
            answer = answers.read(int(size)) if size else b""
            if size and len(answer) == int(size):
                return cast(dict[str, Any], json.loads(answer.decode("utf-8", "surrogatepass")))
        except BrokenPipeError:
            pass
        except BaseException:  # Ctrl-C, say: what it answers now would be taken for the next document's
            self.end()
            raise
        raise self._cause(limits)

    def end(self) -> None:
        if self.owner == os.getpid():
            self._process.kill()
            self._process.communicate()

    def _cause(self, limits: Limits) -> Unreadable:
        status = self._process.wait()
        self.end()
        if status in (-signal.SIGPROF, -signal.SIGALRM):
            return limits.over(f"parsing it took more than {limits.seconds} seconds", "seconds")
        if status == parser_process.OUT_OF_MEMORY:
            return limits.over(f"parsing it took more than {limits.memory_bytes:,} bytes of memory", "memory_bytes")
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return Unreadable(f"its parser crashed ({how})")


_lock = threading.Lock()
_running: _ParserProcess | None = None


def _process(memory: int) -> _ParserProcess:
    """The running process, or a fresh one. Under the lock."""
    global _running
    if _running is None or not _running.running or _running.memory != memory:
        if _running is not None:
            _running.end()
        _running = _ParserProcess(memory)
    return _running


atexit.register(close)
