"""ONNX models: the embedded int8 ones, and a float graph written here byte by byte for the padded-batch path."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
from regard.rag.errors import MissingDependency, ModelNotFound, UnsupportedModel
from regard.rag.models import resolve
from regard.rag.models.onnx import OnnxModel

PAIRS = [
    ("who was the first president", "George Washington was the first president of the United States."),
    ("who was the first president", "Bananas grow in the tropics, " * 20),
    ("capital of France", "Paris is the capital of France."),
]


@pytest.fixture(scope="module")
def reranker():
    model = OnnxModel.acquire(resolve("minilm-cross-encoder").path)
    yield model
    model.release()


def _field(number: int, payload: bytes | str | int) -> bytes:
    """One protobuf field: a varint, or a length-delimited value."""
    if isinstance(payload, int):
        return _varint(number << 3) + _varint(payload)
    data = payload.encode() if isinstance(payload, str) else payload
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _tensor(name: str, element: int) -> bytes:
    dims = b"".join(_field(1, _field(2, axis)) for axis in ("batch", "sequence"))
    return _field(1, name) + _field(2, _field(1, _field(1, element) + _field(2, dims)))


def embedding_graph(table: np.ndarray, input_name: str = "input_ids") -> bytes:
    """A model whose output is ``table[input_ids]``: float32 [batch, sequence, d], no int8 in it."""
    gather = _field(1, "table") + _field(1, input_name) + _field(2, "out") + _field(4, "Gather")
    weights = b"".join(_field(1, int(d)) for d in table.shape) + _field(2, 1) + _field(8,
                                                                                       "table") + _field(9, table.tobytes())  # noqa: E501
    graph = (_field(1, gather) + _field(2, "g") + _field(5, weights) + _field(11, _tensor(input_name, 7))
             + _field(12, _field(1, "out") + _field(2, _field(1, _field(1, 1)))))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


def _folder(tmp_path, graph: bytes, **tokenizer_config):
    (tmp_path / "model.onnx").write_bytes(graph)
    source = resolve("minilm-cross-encoder").path
    with open(f"{source}/tokenizer.json", encoding="utf-8") as file:
        (tmp_path / "tokenizer.json").write_text(file.read(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    return str(tmp_path)


def test_tokenize_neither_pads_nor_exceeds(reranker):
    encodings = reranker.tokenize(PAIRS, 512)
    assert len(encodings[0]) < 30 < len(encodings[1]) < 512
    assert all(set(e.attention_mask) == {1} for e in encodings)
    assert set(encodings[0].type_ids) == {0, 1}
    short = reranker.tokenize(PAIRS, 16)
    assert [len(e) for e in short] == [16, 16, min(16, len(encodings[2]))]
    assert short[1].overflowing
    assert not encodings[0].overflowing


def test_the_window_bounds_any_max_length(reranker):
    assert reranker.window == 512
    (encoding,) = reranker.tokenize(["word " * 3000], 100_000)
    assert len(encoding) == 512


def test_int8_scores_do_not_depend_on_the_batch(reranker):
    encodings = reranker.tokenize(PAIRS, 512)
    together = reranker.run(encodings)
    assert together.shape == (3, 1)
    assert np.array_equal(together, np.concatenate([reranker.run([e]) for e in encodings]))
    assert np.array_equal(together[::-1], reranker.run(encodings[::-1]))
    assert together[0] > together[1]


def test_token_outputs_end_in_zeros():
    model = OnnxModel.acquire(resolve("bge-small").path)
    encodings = model.tokenize(["hello world", "a much longer sentence than the other one"], 512)
    states = model.run(encodings)
    assert states.shape == (2, len(encodings[1]), 384)
    assert not states[0, len(encodings[0]):].any()
    assert np.array_equal(states[:1, :len(encodings[0])], model.run(encodings[:1]))
    model.release()


def test_a_float_graph_runs_as_one_padded_batch_with_the_inputs_it_has(tmp_path):
    table = np.random.default_rng(0).normal(size=(30522, 4)).astype(np.float32)
    model = OnnxModel.acquire(_folder(tmp_path, embedding_graph(table)))
    encodings = model.tokenize(["one", "two three four"], 512)
    out = model.run(encodings)
    assert not model.row_by_row
    assert model.window is None
    assert out.shape == (2, len(encodings[1]), 4)
    assert np.array_equal(out[1], table[encodings[1].ids])
    model.release()


def test_the_session_is_shared_and_freed():
    folder = resolve("bge-small").path
    first, second = OnnxModel.acquire(folder), OnnxModel.acquire(folder)
    assert first is second
    first.release()
    assert OnnxModel.acquire(folder) is first
    first.release()
    second.release()
    third = OnnxModel.acquire(folder)
    assert third is not first
    third.release()


def test_errors_say_what_is_missing(tmp_path):
    with pytest.raises(ModelNotFound, match=r"model\.onnx"):
        OnnxModel.acquire(str(tmp_path))
    folder = _folder(tmp_path, embedding_graph(np.zeros((9, 2), np.float32), input_name="pixel_values"))
    with pytest.raises(UnsupportedModel, match="pixel_values"):
        OnnxModel.acquire(folder)


def test_without_onnxruntime_the_error_names_it(tmp_path, monkeypatch):
    folder = _folder(tmp_path, embedding_graph(np.zeros((9, 2), np.float32)))
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependency, match="onnxruntime"):
        OnnxModel.acquire(folder)
