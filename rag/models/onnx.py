"""ONNX models that take token ids: one shared session and its tokenizer for the encoder and the cross-encoder.

A model quantised to int8 with dynamic ranges computes one range per activation *tensor*, so everything in a forward
pass, padding included, shifts every other output of that pass. Measured on the embedded cross-encoder (300 MS MARCO
pairs): a pair's logit moves by 0.14 on average and up to 0.87 with its batch, 0.62 even among pairs of exactly equal
length. Such a model therefore runs one row a forward pass, as many passes at a time as there are cores, which on two
cores is also faster (183 pairs/s; padded batches of 4,096 tokens: 145), so that a result never depends on what else was
in the batch.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import models
from ..errors import MissingDependency, ModelNotFound, UnsupportedModel
from ..extras import missing
from .inert import expect_inert

_DYNAMIC_RANGE_OPS = (b"DynamicQuantizeLinear", b"DynamicQuantizeMatMul", b"DynamicQuantizeLSTM")
_COLUMNS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Encoding(Protocol):
    """What :meth:`OnnxModel.tokenize` gives for a text: a ``tokenizers.Encoding`` without padding."""

    ids: list[int]
    type_ids: list[int]
    attention_mask: list[int]
    overflowing: list[Any]  # what truncation cut off; empty when the text fitted

    def __len__(self) -> int: ...


class OnnxModel:
    """A folder with ``model.onnx`` and ``tokenizer.json``. Get one with :meth:`acquire`, give it back with
    :meth:`release`.

    Safe to use from several threads.
    """

    def __init__(self, folder: str) -> None:
        """Raises ``ModelNotFound`` when a file is missing, ``MissingDependency`` without onnxruntime or tokenizers."""
        graph, vocabulary = _files(folder)
        expect_inert(models.resolve(folder))
        self.folder = folder
        self.window = _window(folder)
        """The longest input in tokens, or None when the folder does not say."""
        self.row_by_row = _has_dynamic_ranges(graph)
        self._session = _session(graph, threads=1 if self.row_by_row else 0)
        self._pool = ThreadPoolExecutor(_cores(), "onnx") if self.row_by_row else None
        self._inputs = _token_inputs(self._session, folder)
        self._tokenizer = _tokenizer(vocabulary)
        self._tokenizer_lock = threading.Lock()  # truncation is a setting of the shared tokenizer, not of the call

    @classmethod
    def acquire(cls, folder: str) -> OnnxModel:
        """The model in ``folder``, shared by all who ask for it. Pair each call with one :meth:`release`."""
        return models.acquire(("onnx", folder), lambda: cls(folder))

    def release(self) -> None:
        """Give back what :meth:`acquire` gave; the last user frees the session."""
        models.release(("onnx", self.folder))

    def tokenize(self, texts: Sequence[str] | Sequence[tuple[str, str]], max_length: int) -> list[Encoding]:
        """Token ids of texts or text pairs, special tokens included, unpadded, each at most ``max_length`` (and the
        window) long.

        Truncation takes from the longer text of a pair first; what it took is in ``overflowing``.
        """
        limit = min(max_length, self.window or max_length)
        with self._tokenizer_lock:
            self._tokenizer.enable_truncation(limit, strategy="longest_first")
            encodings: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        return encodings

    def run(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """The graph's first output, ``[len(encodings), ...]``; an output with a token axis ends in zeros after a row's
        last token.

        Models without dynamic ranges run ``encodings`` as one batch, padded to its longest: pass texts of similar
        length.
        """
        if not encodings:
            raise ValueError("nothing to run: pass at least one encoding")
        if self._pool is None:
            return self._forward(encodings)
        return _stack(list(self._pool.map(lambda encoding: self._forward([encoding]), encodings)))

    def _forward(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        width = max(len(encoding) for encoding in encodings)
        feed = {name: _padded([getattr(e, _COLUMNS[name]) for e in encodings], width) for name in self._inputs}
        output: NDArray[np.float32] = self._session.run(None, feed)[0]
        return output


def _files(folder: str) -> tuple[Path, Path]:
    graph, vocabulary = Path(folder) / "model.onnx", Path(folder) / "tokenizer.json"
    for file in (graph, vocabulary):
        if not file.is_file():
            raise ModelNotFound(f"an ONNX model needs {file.name}, and there is none", where=folder,
                                hint="export the model with its tokenizer, for example with optimum-cli export onnx")
    return graph, vocabulary


def _window(folder: str) -> int | None:
    """``model_max_length`` of the tokenizer's configuration; exporters write a number beyond 1e18 for "no limit"."""
    file = Path(folder) / "tokenizer_config.json"
    length = json.loads(file.read_text(encoding="utf-8")).get("model_max_length") if file.is_file() else None
    return int(length) if length and length < 1_000_000_000 else None


def _has_dynamic_ranges(graph: Path) -> bool:
    """Operator names are stored as plain strings in the protobuf, so the onnx package is not needed to see them."""
    content = graph.read_bytes()
    return any(operator in content for operator in _DYNAMIC_RANGE_OPS)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _session(graph: Path, threads: int) -> Any:
    """A session on the GPU where this build of onnxruntime has one; ``threads`` 0 is one a core."""
    try:
        import onnxruntime
    except ImportError:
        raise missing("onnxruntime", where=str(graph)) from None
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=providers)
    # its own, of many classes: no graph, operators it has not, weights outside the graph's folder
    except Exception as error:
        raise UnsupportedModel(f"the graph cannot be loaded: {str(error).splitlines()[0]:.300}", where=str(graph),
                               hint="export the model again, with its weights in its own folder") from None


def _token_inputs(session: Any, folder: str) -> list[str]:
    names = [node.name for node in session.get_inputs()]
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown:
        raise UnsupportedModel(f"the graph has inputs that are not token ids: {', '.join(unknown)}", where=folder,
                               hint=f"export a model whose inputs are among {', '.join(_COLUMNS)}")
    return names


def _tokenizer(vocabulary: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingDependency("tokenizers is not installed", where=str(vocabulary),
                                hint="pip install tokenizers") from None
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.no_padding()  # some files ask for a fixed 512
    return tokenizer


def _padded(columns: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    """int64 [n, width], zeros on the right: id 0 under a mask of 0 is never attended to."""
    out = np.zeros((len(columns), width), dtype=np.int64)
    for row, column in zip(out, columns, strict=True):
        row[:len(column)] = column
    return out


def _stack(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """One array of outputs ``[1, ...]`` whose second axis may differ in length (a token axis); the shorter end in
    zeros."""
    shape = np.max([row.shape[1:] for row in rows], axis=0)
    out = np.zeros((len(rows), *shape), dtype=rows[0].dtype)
    for position, row in enumerate(rows):
        filled: tuple[slice, ...] = tuple(slice(size) for size in row.shape[1:])
        out[position][filled] = row[0]
    return out
