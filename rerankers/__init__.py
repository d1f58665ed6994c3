"""Rerankers: stages that take queries and their rankings and give the rankings back in a better order.

Lives here: ``cross_encoder`` (a model that reads query and passage together), ``attention`` (a language model's own attention
as the score).

May import: ``rag`` and ``kernels``. Importing this package loads no model library.
"""

from .attention import AttentionReranker
from .cross_encoder import CrossEncoder

__all__ = ["AttentionReranker", "CrossEncoder"]
