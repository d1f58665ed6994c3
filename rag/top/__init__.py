"""Regard: retrieval-augmented generation as a typed DAG.

This is the package ``regard`` itself; all it holds is its version. What people use lives in ``regard.rag`` (nouns, pipelines, evaluation),
``regard.indexers``, ``regard.retrievers``, ``regard.rerankers``, ``regard.readers`` and ``regard.kernels``. The source lies in the folder
``rag/top``, since a checkout has no folder ``regard``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # asked for, not at every import

        return version("regard")
    raise AttributeError(f"module 'regard' has no attribute {name!r}")


__version__: str
