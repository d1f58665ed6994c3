"""What this machine has and lacks, for ``regard doctor``."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TypedDict

from . import models
from .errors import RegardError
from .registry import stage_names


class Finding(TypedDict):
    name: str
    ok: bool
    detail: str
    hint: str


class Findings(TypedDict):
    packages: list[Finding]
    models: list[Finding]
    devices: dict[str, str]
    machine: dict[str, str]


# module -> (distributions that bring it, what to do without it)
_PACKAGES = {
    "torch": (["torch"], "pip install torch"),
    "transformers": (["transformers"], "pip install transformers"),
    "sentence_transformers": (["sentence-transformers"], "pip install sentence-transformers"),
    "gguf": (["gguf"], "pip install gguf (GGUF language models)"),
    "accelerate": (["accelerate"], "pip install accelerate (GGUF language models)"),
    "lance": (["pylance"], "pip install pylance"),
    "bm25s": (["bm25s"], "pip install bm25s"),
    "numba": (["numba"], "pip install numba (BM25 is forty times slower without)"),
    "Stemmer": (["PyStemmer"], "pip install PyStemmer"),
    "onnxruntime": (["onnxruntime", "onnxruntime-gpu"], "pip install onnxruntime (the embedded cross-encoder and bge-small)"),
    "faiss": (["faiss-cpu", "faiss-gpu"], "pip install 'regard[cpu]', or 'regard[gpu]' on Linux with CUDA"),
    "ir_measures": (["ir-measures"], "pip install ir-measures"),
    "langchain_core": (["langchain-core"], "pip install langchain-core"),
}
_RUNS_ON = {"BM25": "cpu", "Fuse": "cpu", "Parents": "cpu", "RemoteReader": "remote"}


def examine() -> Findings:
    """Look at packages, embedded models and devices; loads no model."""
    return {
        "packages": [_package(module, names, hint) for module, (names, hint) in _PACKAGES.items()],
        "models": [_model(name) for name in models.EMBEDDED],
        "devices": _devices(),
        "machine": {
            "python": platform.python_version(), "cores": str(os.cpu_count()), "cache": str(models.cache_dir()),
            "hub": "offline (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else "online when asked",
        },
    }


def _package(module: str, distributions: list[str], hint: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return {"name": module, "ok": False, "detail": "", "hint": hint}
    for name in distributions:
        try:
            return {"name": module, "ok": True, "detail": f"{name} {version(name)}", "hint": ""}
        except PackageNotFoundError:
            continue
    return {"name": module, "ok": True, "detail": "installed", "hint": ""}


def _model(name: str) -> Finding:
    try:
        files = models.resolve(name)
    except RegardError as error:
        return {"name": name, "ok": False, "detail": error.where or "", "hint": error.hint or ""}
    return {"name": name, "ok": True, "detail": f"{files.kind}, from {files.package}", "hint": ""}


def _devices() -> dict[str, str]:
    """Where each registered stage would run when no device is named."""
    if importlib.util.find_spec("torch") is None:
        return dict.fromkeys(stage_names(), "torch is missing")
    default = models.device()
    return {stage: _RUNS_ON.get(stage, default) for stage in stage_names()}
