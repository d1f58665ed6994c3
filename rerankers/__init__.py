"""Rerankers: stages that take queries and their rankings and give the rankings back in a better order.

Lives here: ``attention`` (a language model's own attention as the score) with its ``policies`` (which attention counts, and how), the
``prompts`` of methods that have their own, and ``detect`` (which heads tell relevant passages apart); ``cross_encoder`` (a model that
reads query and passage together).

May import: ``rag`` (but ``rag.app``) and ``kernels``. Importing this package loads no model library.
"""

from typing import TYPE_CHECKING

from ..rag.tables import lazy

if TYPE_CHECKING:
    from .attention import AttentionReranker
    from .cross_encoder import CrossEncoder
    from .margin import Margin
    from .policies import ICR, AttentionSorting, BlockICR, BlockRank, CoRe, LayerBand, QRHead

STAGES = {
    "AttentionReranker": ".attention:AttentionReranker",
    "CrossEncoder": ".cross_encoder:CrossEncoder",
    "Margin": ".margin:Margin",
}
POLICIES = {
    "AttentionSorting": ".policies:AttentionSorting",
    "BlockICR": ".policies:BlockICR",
    "BlockRank": ".policies:BlockRank",
    "CoRe": ".policies:CoRe",
    "ICR": ".policies:ICR",
    "LayerBand": ".policies:LayerBand",
    "QRHead": ".policies:QRHead",
}
JOBS = {"heads": ".detect:detect_on_index"}
__all__ = ["ICR", "AttentionReranker", "AttentionSorting", "BlockICR", "BlockRank", "CoRe", "CrossEncoder", "LayerBand", "QRHead"]
__getattr__ = lazy(__name__, STAGES, POLICIES)
