"""``python:`` reads what the running Python says about itself: docstrings of the standard library, and the language
topics of ``help()``."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ...rag.errors import CorpusError
from ...rag.nouns import Document
from .python_modules import NOT_WELL_KNOWN, TOPICS, WELL_KNOWN, is_readable
from .skips import OnSkip, Skip

PREFIX = "python:"
_MIN_WORDS = 5
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_TITLE_LENGTH = 160
_WRAPPED = (staticmethod, classmethod)


def read(source: str, on_skip: OnSkip) -> Iterator[Document]:
    """Documents of ``python:`` (well-known modules and topics) or ``python:shutil,json,topics`` (just those), module by
    module.

    A document is one docstring: id ``shutil.rmtree``, title with the signature, metadata ``module`` and ``kind``
    (module, function, class, method, topic). Private names and docstrings of fewer than five words are left out; an
    object is read where it is met first. Only modules of the standard library are imported, and none that does
    something when imported. Raises ``CorpusError`` at once for another module's name.
    """
    named = [name.strip() for name in source.removeprefix(PREFIX).split(",") if name.strip()]
    for name in named:
        if name != TOPICS and not is_readable(name):
            raise CorpusError(f"{name!r} is not a module of the standard library that can be read", where=source,
                              hint="python: reads the well-known ones, python:shutil,json just those, python:topics "
                                   "the language")
    if named:
        return _documents(named, source, on_skip)
    return (document for document in _documents([*WELL_KNOWN, TOPICS], source, on_skip)
            if not NOT_WELL_KNOWN.match(document.id))


def _documents(names: list[str], source: str, on_skip: OnSkip) -> Iterator[Document]:
    met: dict[int, Any] = {}  # holds the objects, so that no id is used twice
    for name in names:
        if name == TOPICS:
            yield from _topics()
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module = importlib.import_module(name)
        except ImportError as error:
            on_skip(Skip(source, name, f"cannot be imported: {error}"))
            continue
        yield from filter(None, (_document(*member) for member in _members(module, name, met)))


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(f"{TOPICS}.{name}", inspect.cleandoc(topics[name]), name, {"module": TOPICS, "kind": "topic"})


def _members(module: ModuleType, name: str, met: dict[int, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """``(id, module, kind, object)``: the module, its public functions and classes, and each class's own public
    methods."""
    yield name, name, "module", module
    for attribute in sorted(_public(module)):
        member = getattr(module, attribute, None)
        if id(member) in met or not (inspect.isclass(member) or inspect.isroutine(member)):
            continue
        met[id(member)] = member
        kind = "class" if inspect.isclass(member) else "function"
        yield f"{name}.{attribute}", name, kind, member
        if kind == "class":
            for own, value in sorted(vars(member).items()):
                documented = inspect.isroutine(value) or isinstance(value, (property, *_WRAPPED))
                if not own.startswith("_") and documented and not _grafted(value):
                    yield f"{name}.{attribute}.{own}", name, "method", value


def _grafted(value: Any) -> bool:
    """Whether another distribution put this method on a class of the standard library (transformers does so to
    ``logging.Logger``)."""
    home = getattr(value, "__module__", None)
    return isinstance(home, str) and home.partition(".")[0] not in sys.stdlib_module_names


def _public(module: ModuleType) -> list[str]:
    """The names of ``__all__``; without it, those that are defined in this module (a C module behind it counts as this
    one)."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("_")]
    homes = {module.__name__, f"_{module.__name__}", "posix", "nt"}
    public = ((name, value) for name, value in vars(module).items() if not name.startswith("_"))
    return [name for name, value in public if getattr(value, "__module__", None) in homes]


def _document(name: str, module: str, kind: str, member: Any) -> Document | None:
    function = member.__func__ if isinstance(member, _WRAPPED) else member
    text = getattr(function, "__doc__", None)
    if not isinstance(text, str) or len(text.split()) < _MIN_WORDS or text.startswith("Alias for field number"):
        return None
    return Document(name, inspect.cleandoc(text), name + _signature(function, kind), {"module": module, "kind": kind})


def _signature(member: Any, kind: str) -> str:
    """``(path, ignore_errors=False)``; empty where there is none to be had."""
    if kind == "module" or isinstance(member, property):
        return ""
    try:
        signature = _ADDRESS.sub("", str(inspect.signature(member)))
    except (ValueError, TypeError):
        return ""
    signature = re.sub(r"^\((?:self|cls|\$self)(?:, /)?(?:, )?", "(", signature) if kind == "method" else signature
    return signature if len(signature) <= _TITLE_LENGTH else f"{signature[:_TITLE_LENGTH - 4]}...)"
