"""Models: where they come from, how they are shared, and what an encoder and a verifier are.

Lives here: ``resolve`` (names to files, weights hashes), ``sharing``, ``inert`` (a model folder is data alone),
``chosen`` (which models the user has named), ``onnx``, ``packing``, ``encoding`` and ``verification`` (protocols). May
import: ``rag.parts``, ``rag.nouns``, ``rag.errors`` and the other files at the bottom.
"""

from .resolve import EMBEDDED, ModelFiles, ModelKind, cache_dir, device, resolve, weights_hash
from .sharing import acquire, release

__all__ = ["EMBEDDED", "ModelKind", "ModelFiles", "acquire", "cache_dir", "device", "release", "resolve",
           "weights_hash"]
