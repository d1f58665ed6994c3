"""Which modules ``python:`` reads: the standard library that people ask about."""

from __future__ import annotations

import sys

WELL_KNOWN = (
    "abc", "argparse", "array", "ast", "asyncio", "base64", "bisect", "builtins", "calendar", "cmath", "collections",
    "concurrent.futures", "configparser", "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib",
    "email.message", "enum", "fnmatch", "fractions", "functools", "getpass", "glob", "gzip", "hashlib", "heapq", "hmac", "html",
    "http.client", "importlib", "inspect", "io", "itertools", "json", "keyword", "locale", "logging", "math", "mimetypes",
    "multiprocessing", "operator", "os", "os.path", "pathlib", "pickle", "platform", "pprint", "queue", "random", "re", "sched",
    "secrets", "select", "shelve", "shlex", "shutil", "signal", "socket", "sqlite3", "ssl", "stat", "statistics", "string",
    "struct", "subprocess", "sys", "tarfile", "tempfile", "textwrap", "threading", "time", "timeit", "tokenize", "traceback",
    "types", "typing", "unicodedata", "unittest", "urllib.parse", "urllib.request", "uuid", "warnings", "weakref", "webbrowser",
    "xml.etree.ElementTree", "zipfile", "zlib",
)

TOPICS = "topics"

_NEVER_IMPORTED = frozenset({"__main__", "antigravity", "idlelib", "test", "this", "tkinter", "turtle", "turtledemo"})


def is_readable(module: str) -> bool:
    """Whether importing ``module`` is known to do nothing but define things: the standard library, less its jokes, tests and
    windows."""
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names and root not in _NEVER_IMPORTED and not module.endswith("__main__")
