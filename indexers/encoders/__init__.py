"""Encoders: a file a family, and how an index remembers its own.

Lives here: ``dense`` (sentence-transformers and ONNX), ``stored`` (the encoders of an index). A new encoder is a file
and a line in the table.
May import: ``regard.rag`` (but ``rag.app``), ``regard.kernels``.
"""

from typing import TYPE_CHECKING

from ...rag.tables import lazy

if TYPE_CHECKING:
    from .dense import OnnxEncoder, SentenceTransformerEncoder

ENCODERS = {
    "OnnxEncoder": ".dense:OnnxEncoder",
    "SentenceTransformerEncoder": ".dense:SentenceTransformerEncoder",
}
__all__ = ["ENCODERS", "OnnxEncoder", "SentenceTransformerEncoder"]
__getattr__ = lazy(__name__, ENCODERS)
