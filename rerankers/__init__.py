"""Rerankers: stages that take queries and their rankings and give the rankings back in a better order.

Lives here: ``attention`` (a language model's own attention as the score) with its ``policies`` (which attention counts, and how), the
``prompts`` of methods that have their own, and ``detect`` (which heads tell relevant passages apart); ``cross_encoder`` (a model that
reads query and passage together).

May import: ``rag`` and ``kernels``. Importing this package loads no model library.
"""

from .attention import AttentionReranker
from .cross_encoder import CrossEncoder
from .policies import ICR, AttentionSorting, BlockICR, BlockRank, CoRe, LayerBand, QRHead

__all__ = ["ICR", "AttentionReranker", "AttentionSorting", "BlockICR", "BlockRank", "CoRe", "CrossEncoder", "LayerBand", "QRHead"]
