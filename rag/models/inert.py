"""Whether a model folder is data alone: what the libraries that load it would import, unpickle or fetch on its word is
refused first.

They guard themselves against much of this (``trust_remote_code`` is False everywhere); this does not rest on each of
their versions doing so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UnsupportedModel
from ..plain import MOST_JSON, read_text
from . import ModelFiles

_CLASSES = {
    "type": re.compile(r"sentence_transformers(\.[a-z_]\w*)*\.[A-Z]\w*"),  # of a module, in modules.json
    # a plain name is looked up, not imported
    "activation_fn": re.compile(r"torch\.nn\.modules\.(activation|linear)\.[A-Z]\w*|\w+"),
}
_CLASSES["activation_function"] = _CLASSES["sbert_ce_default_activation_function"] = _CLASSES["activation_fn"]
_IMPLEMENTATIONS = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def expect_inert(files: ModelFiles) -> None:
    """Raise ``UnsupportedModel``, naming the file, unless the local model ``files`` is data alone:

    - ``modules.json`` and the configurations name classes of sentence-transformers and activations of torch only, and
      paths inside;
    - no configuration asks for code of its own (``auto_map``), for a kernel from a hub, or (an adapter's) for another
      model;
    - weights are safetensors, GGUF or ONNX: a pickled file is refused where none of these is beside it.

    An ONNX graph that keeps weights outside its folder is refused by its runtime (``rag.models.onnx``).
    """
    folder = Path(files.path)
    if not files.local or not folder.is_dir():
        return
    modules = folder / "modules.json"
    parts = _modules(modules) if modules.is_file() else []
    for part in [folder, *parts]:
        if (part / "adapter_config.json").exists():
            raise _refused(part / "adapter_config.json", "an adapter names another model to load",
                           "merge it into its model")
        for config in sorted(part.glob("*config*.json")):
            _expect_plain(config, _json(config))
        _expect_not_pickled(part)


def _modules(path: Path) -> list[Path]:
    """The folders of a sentence-transformers model's modules."""
    found = _json(path)
    if not isinstance(found, list) or not all(isinstance(module, Mapping) and isinstance(module.get("path"), str)
                                              for module in found):
        raise _refused(path, "it does not list modules", "export the model again")
    for module in found:
        _expect_class(path, "type", module.get("type"))
        if not (path.parent / module["path"]).resolve().is_relative_to(path.parent.resolve()):
            raise _refused(path, f"the module {module['path']!r} is outside the folder", "put it inside")
    return [path.parent / module["path"] for module in found if module["path"]]


def _expect_plain(path: Path, data: Any) -> None:
    for key, value in _entries(data):
        if key == "auto_map" and value:
            raise _refused(path, "it asks for code of its own (auto_map)",
                           "use a model that transformers knows by itself")
        if key in _CLASSES and key != "type":
            _expect_class(path, key, value)
        if _IMPLEMENTATIONS.fullmatch(key) and "/" in str(value):
            raise _refused(path, f"it asks for a kernel from a hub ({key} {value!r:.80})", "take it out")
        if key == "types" and path.name == "router_config.json" and isinstance(value, Mapping):
            for kind in value.values():
                _expect_class(path, "type", kind)


def _entries(data: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(data, list):
        for value in data:
            yield from _entries(value)


def _expect_class(path: Path, key: str, name: Any) -> None:
    if name is not None and not (isinstance(name, str) and _CLASSES[key].fullmatch(name)):
        raise _refused(path, f"it names {name!r:.80} to be imported",
                       "only classes of sentence-transformers, and activations of torch.nn, are")


def _expect_not_pickled(folder: Path) -> None:
    files = sorted(file for file in folder.glob("*") if file.is_file())
    pickled = [file for file in files if file.suffix in _PICKLED]
    if pickled and not any(file.suffix in (".safetensors", ".gguf", ".onnx") for file in files):
        raise _refused(pickled[0], "pickled weights can run code when they are read", "convert them to safetensors")


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, MOST_JSON))
    except ConfigError as error:
        raise _refused(path, error.what, error.hint or "") from None
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"it is not JSON: {error}", "export the model again") from None


def _refused(path: Path, why: str, hint: str) -> UnsupportedModel:
    return UnsupportedModel(f"the model in {path.parent} is not loaded: {why}", where=str(path), hint=hint)
