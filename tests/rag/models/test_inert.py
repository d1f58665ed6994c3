"""Model folders from others: nothing of them is imported, unpickled, fetched or read from elsewhere."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from regard.indexers.encoders.dense import SentenceTransformerEncoder
from regard.rag.dag.scope import Scope
from regard.rag.errors import UnsupportedModel
from regard.rag.models import EMBEDDED, resolve
from regard.rag.models.inert import expect_inert
from regard.rag.models.onnx import OnnxModel


@pytest.fixture
def minilm(tmp_path: Path) -> Path:
    """The embedded encoder as a folder of somebody's."""
    shutil.copytree(resolve("minilm").path, tmp_path / "model")
    return tmp_path / "model"


def _change(file: Path, **changes: object) -> None:
    data = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**data, **changes}))


def _module(folder: Path, **changes: object) -> None:
    file = folder / "modules.json"
    first, *rest = json.loads(file.read_text())
    file.write_text(json.dumps([{**first, **changes}, *rest]))


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def _pickled(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Runs(folder.parent / "ran")))


def _own_code(folder: Path) -> None:
    (folder / "mine.py").write_text(f"import pathlib\npathlib.Path({str(folder.parent / 'ran')!r}).touch()\nclass "
                                    f"Model: ...\n")


def _module_code(folder: Path) -> None:
    _own_code(folder)
    _module(folder, type="mine.Model")


def _config_code(folder: Path) -> None:
    _own_code(folder)
    _change(folder / "config.json", auto_map={"AutoModel": "mine.Model", "AutoConfig": "mine.Model"}, model_type="mine")


@pytest.mark.parametrize(("change", "says"), [
    (_module_code, "'mine.Model' to be imported"),
    (_config_code, "auto_map"),
    (lambda folder: _module(folder, type="os.system"), "'os.system' to be imported"),
    (lambda folder: _module(folder, type="sentence_transformers.util.os.system"), "to be imported"),
    (lambda folder: _module(folder, type=["x"]), "to be imported"),
    (lambda folder: _module(folder, path="../elsewhere"), "outside the folder"),
    (lambda folder: (folder / "modules.json").write_text('{"a": 1}'), "does not list modules"),
    (lambda folder: (folder / "modules.json").write_text("[" * 100_000), "not JSON"),
    (lambda folder: _change(folder / "config.json", attn_implementation="evil/kernel"), "kernel from a hub"),
    (lambda folder: _change(folder / "config.json", text_config={"_attn_implementation": {"": "evil/kernel"}}),
     "kernel from a hub"),
    (lambda folder: _change(folder / "config.json",
                            sentence_transformers={"activation_fn": "torch.utils.collect_env.main"}), "imported"),
    (lambda folder: _change(folder / "adapter_config.json", base_model_name_or_path="evil/model"), "adapter"),
    (_pickled, "pickled weights"),
])
def test_what_a_folder_asks_for_is_refused(change, says: str, minilm: Path) -> None:
    change(minilm)
    with pytest.raises(UnsupportedModel) as caught:
        Scope().open(SentenceTransformerEncoder(str(minilm)))
    assert says in caught.value.what
    assert str(minilm) in caught.value.where
    assert not (minilm.parent / "ran").exists()


def test_a_folder_of_data_is_loaded(minilm: Path) -> None:
    with Scope() as scope:
        assert scope.open(SentenceTransformerEncoder(str(minilm))).encode_queries(["a question"]).shape == (1, 384)


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_the_embedded_models_are_inert(name: str) -> None:
    expect_inert(resolve(name))


def _field(number: int, payload: bytes | int) -> bytes:
    if isinstance(payload, int):
        return bytes([number << 3, payload])
    return bytes([number << 3 | 2, len(payload)]) + payload


@pytest.mark.parametrize("where", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_graphs_weights_are_in_its_folder(where: str, reverse: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(range(64)))
    shutil.copy(Path(resolve("bge-small").path) / "tokenizer.json", folder)
    entry = [_field(1, b"location"), _field(2, where.encode())]
    external = _field(13, b"".join(reversed(entry) if reverse else entry))
    weights = _field(1, 4) + _field(1, 4) + _field(2, 1) + _field(8, b"table") + external + _field(14, 1)
    gather = _field(1, b"table") + _field(1, b"input_ids") + _field(2, b"out") + _field(4, b"Gather")
    axes = b"".join(_field(1, _field(2, axis)) for axis in (b"b", b"s"))
    taken = _field(1, b"input_ids") + _field(2, _field(1, _field(1, 7) + _field(2, axes)))
    given = _field(1, b"out") + _field(2, _field(1, _field(1, 1)))
    graph = _field(1, gather) + _field(2, b"g") + _field(5, weights) + _field(11, taken) + _field(12, given)
    size = len(graph)
    (folder / "model.onnx").write_bytes(_field(1, 8) + bytes([7 << 3 | 2, size & 127 | 128, size >> 7]) + graph
                                        + _field(8, _field(2, 13)))
    with pytest.raises(UnsupportedModel):
        OnnxModel(str(folder))
