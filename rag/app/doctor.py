"""What this machine has and lacks, for ``regard doctor``."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Sized
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from .. import models
from ..dag.stores import open_store, store_uri
from ..errors import RegardError
from ..extras import install
from ..files import local_path, size_of
from ..markup import size
from ..tables import table


class Diagnosis(TypedDict):
    name: str
    ok: bool
    detail: str
    hint: str


class Findings(TypedDict):
    packages: list[Diagnosis]
    models: list[Diagnosis]
    views: list[Diagnosis]
    devices: dict[str, str]
    machine: dict[str, str]


# module -> (distributions that bring it, what to do without it)
_PACKAGES = {
    "torch": (["torch"], "pip install torch"),
    "transformers": (["transformers"], "pip install transformers"),
    "sentence_transformers": (["sentence-transformers"], "pip install sentence-transformers"),
    "gguf": (["gguf"], f"{install('gguf')} (GGUF language models)"),
    "accelerate": (["accelerate"], f"{install('accelerate')} (GGUF language models)"),
    "bm25s": (["bm25s"], "pip install bm25s"),
    "numba": (["numba"], "pip install numba (BM25 is forty times slower without)"),
    "Stemmer": (["PyStemmer"], "pip install PyStemmer"),
    "onnxruntime": (["onnxruntime", "onnxruntime-gpu"],
                    f"{install('onnxruntime')} (the embedded cross-encoder and bge-small)"),
    "faiss": (["faiss-cpu", "faiss-gpu"], "pip install 'regard[cpu]', or 'regard[gpu]' on Linux with CUDA"),
    "ir_measures": (["ir-measures"], f"{install('ir_measures')} (regard eval)"),
    "pypdf": (["pypdf"], f"{install('pypdf')} (PDF files)"),
    "langchain_core": (["langchain-core"], f"{install('langchain_core')} (regard.rag.app.integrations.langchain)"),
}
_RUNS_ON = {"BM25": "cpu", "Fuse": "cpu", "Parents": "cpu", "RemoteReader": "remote"}


def examine(index: str | Path | None = None) -> Findings:
    """Look at packages, embedded models, devices, and whether the large views of ``index`` fit their disk; loads no
    model.

    Raises ``IndexNotFound`` where there is no index.
    """
    folder = None if index is None else local_path(index, "index")
    return {
        "packages": [_package(module, names, hint) for module, (names, hint) in {**_PACKAGES, **_stores()}.items()],
        "models": [_model(name) for name in models.EMBEDDED],
        "views": [] if folder is None else _views(folder),
        "devices": _devices(),
        "machine": {
            "python": platform.python_version(), "cores": str(os.cpu_count()), "cache": str(models.cache_dir()),
            "hub": "online when asked" if os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0")
                   else "offline (HF_HUB_OFFLINE is set)",
        },
    }


def _stores() -> dict[str, tuple[list[str], str]]:
    """The packages that the registered kinds of stores need; a kind that cannot be imported says so when it is used."""
    kinds, needed = table("regard.stores"), dict[str, str]()
    for name in kinds:
        with suppress(RegardError):
            needed |= kinds[name].packages
    return {module: ([package], f"pip install {package}") for module, package in needed.items()}


def _package(module: str, distributions: list[str], hint: str) -> Diagnosis:
    if importlib.util.find_spec(module) is None:
        return {"name": module, "ok": False, "detail": "", "hint": hint}
    for name in distributions:
        try:
            return {"name": module, "ok": True, "detail": f"{name} {version(name)}", "hint": ""}
        except PackageNotFoundError:
            continue
    return {"name": module, "ok": True, "detail": "installed", "hint": ""}


def _model(name: str) -> Diagnosis:
    try:
        files = models.resolve(name)
    except RegardError as error:
        return {"name": name, "ok": False, "detail": error.where or "", "hint": error.hint or ""}
    return {"name": name, "ok": True, "detail": f"{files.kind}, from {files.package}", "hint": ""}


def _views(index: Path) -> list[Diagnosis]:
    """The views of ``index`` that keep a footprint: whether what they lack fits."""
    from ...indexers.views.attention.footprint import FOOTPRINT  # only for an index

    store = open_store(store_uri(index))
    passages = len(store) if isinstance(store, Sized) else 0
    return [_view(file, passages) for file in sorted(index.glob(f"views/*/{FOOTPRINT}"))]


def _view(file: Path, passages: int) -> Diagnosis:
    try:
        whole = json.loads(file.read_bytes())
        name, held, octets = str(whole["view"]), int(whole["passages"]), int(whole["bytes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return {"name": file.parent.name, "ok": False, "detail": f"its footprint cannot be read: {error}",
                "hint": "build the view again"}
    here, free = size_of(file.parent), shutil.disk_usage(file.parent).free
    later = max(0, passages - held) * octets / max(held, 1)
    lacking = max(0, round(octets + later) - here)
    detail = f"{size(here)} on disk, {size(lacking)} to come, {size(free)} free" if lacking else f"{size(here)} on disk"
    hint = ("" if lacking <= free else
            "it will not fit: free some space, store 8 bits (bits=8), or fewer layers (heads= or last=)")
    return {"name": name, "ok": not hint, "detail": detail, "hint": hint}


def _devices() -> dict[str, str]:
    """Where each registered stage would run when no device is named."""
    if importlib.util.find_spec("torch") is None:
        return dict.fromkeys(table("regard.stages").names(), "torch is missing")
    default = models.device()
    return {stage: _RUNS_ON.get(stage, default) for stage in table("regard.stages").names()}
