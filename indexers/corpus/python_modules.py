"""Which modules ``python:`` reads: the standard library that people ask about."""

from __future__ import annotations

import re
import sys

WELL_KNOWN = (
    "builtins", "argparse", "base64", "bisect", "collections", "contextlib", "copy", "csv", "dataclasses", "datetime",
    "fnmatch", "functools", "getpass", "glob", "gzip", "hashlib", "heapq", "html", "itertools", "json", "logging",
    "math", "os",
    "os.path", "pathlib", "pickle", "pprint", "queue", "random", "re", "secrets", "shlex", "shutil", "statistics",
    "string", "subprocess", "sys", "tempfile", "textwrap", "threading", "time", "timeit", "urllib.parse",
    "urllib.request",
    "uuid", "warnings", "webbrowser", "zipfile",
)

TOPICS = "topics"

_CHAPTERS = (
    "attribute-access|compound|customization|debugger|formatstrings|identifiers|numeric-types|objects|sequence-types|specialnames|string-methods"
    "|types|typesmapping|typesseq|typesseq-mutable"
)
_OS_PLUMBING = (
    r"W[A-Z]|(?:exec|spawn)[lv]|sched_|posix_|pidfd|[gs]et\w*(?:id|groups|priority|blocking|inheritable)$|\w*xattr|p?(?:read|write)v?$"
    r"|f(?:ch|data|path|stat|trunc)|l?chown|wait|tc[gs]et|\w*(?:pty|tty|conf|fifo|nod|vfs|_result|fd)$|splice|sendfile|lock|dup|major|minor"
    r"|makedev|copy_file_range|closerange|pipe|get(?:load|log|envb|cwdb|random)|chroot|ctermid|nice|register|device|lseek|plock|terminal_size$"
)
NOT_WELL_KNOWN = re.compile("|".join((
    rf"topics\.(?:{_CHAPTERS})$",  # reference chapters, repeated by other topics and docstrings
    r"builtins\.(?:bytes|bytearray|frozenset|memoryview)\.",  # say again what str, list and set say
    r"builtins\.\w+Warning$", rf"os\.(?:{_OS_PLUMBING})",
    r"logging\.(?!Logger\.)\w+\.", r"urllib\.request\.[A-Z]", r"(?:pickle|zipfile)\.\w+Error",
    r"threading\.(?:_|Barrier|Condition|BrokenB)", r"(?:random|statistics|hashlib)\.\w+\.", r"argparse\.\w+Formatter",
)))
"""Ids that ``python:`` leaves to who names their module: there they would only crowd out what people look for."""

_NEVER_IMPORTED = frozenset({"__main__", "antigravity", "idlelib", "test", "this", "tkinter", "turtle", "turtledemo"})


def is_readable(module: str) -> bool:
    """Whether importing ``module`` is known to do nothing but define things."""
    # the standard library, less its jokes, its tests and what needs a screen
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names and root not in _NEVER_IMPORTED and not module.endswith("__main__")
