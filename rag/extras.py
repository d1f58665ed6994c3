"""Packages that come with an extra of the distribution: without them all of Regard still imports, and says what to
install."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import MissingDependency

EXTRAS = {
    "accelerate": ("accelerate", "gguf"),  # transformers reads GGUF files with it and gguf
    "gguf": ("gguf", "gguf"),
    "ir_measures": ("ir-measures", "eval"),
    "langchain_core": ("langchain-core", "langchain"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "pypdf": ("pypdf", "pdf"),
}
"""By module: the distribution that brings it, and the extra that brings that."""


def need(module: str, *, where: str) -> None:
    """Raise ``MissingDependency``, naming the extra, where ``module`` is not installed."""
    try:
        found = find_spec(module) is not None
    except ImportError:
        found = False
    if not found:
        raise missing(module, where=where)


def missing(module: str, *, where: str) -> MissingDependency:
    """The error for a ``module`` that could not be imported."""
    return MissingDependency(f"{EXTRAS[module][0]} is not installed", where=where, hint=install(module))


def install(module: str) -> str:
    """How to get ``module``."""
    return f"pip install 'regard[{EXTRAS[module][1]}]'"
