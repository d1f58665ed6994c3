"""Rerankers: stages that take queries and their rankings and give the rankings back in a better order.

Lives here: ``attention`` (a language model's own attention as the score, as one of its ``policies`` says);
``cross_encoder`` (a model that reads query and passage together), ``margin`` (a rule for when a ranking is decided).

May import: ``rag`` (but ``rag.app``) and ``kernels``. Importing this package loads no model library.
"""

from typing import TYPE_CHECKING

from ..rag.tables import lazy
from .attention.policies import POLICIES

if TYPE_CHECKING:
    from .attention.policies import ICR, AttentionSorting, BlockICR, BlockRank, CoRe, LayerBand, Policy, QRHead
    from .attention.stage import AttentionReranker
    from .cross_encoder import CrossEncoder
    from .margin import Margin

STAGES = {
    "AttentionReranker": ".attention.stage:AttentionReranker",
    "CrossEncoder": ".cross_encoder:CrossEncoder",
    "Margin": ".margin:Margin",
}
JOBS = {"heads": ".attention.detect:detect_on_index"}
__all__ = ["ICR", "AttentionReranker", "AttentionSorting", "BlockICR", "BlockRank", "CoRe", "CrossEncoder", "LayerBand",
           "Margin",
           "Policy", "QRHead"]
__getattr__ = lazy(__name__, STAGES, {name: f".attention.policies:{name}" for name in (*POLICIES, "Policy")})
