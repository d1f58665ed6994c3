"""Policies: which attention counts, under which mask, and how it becomes a score. A file a method: published ones, and
ours.

All score passages by the attention that a reading of the query pays to their tokens (``LanguageModel.attention_mass``).
They differ in the prompt, in what passages see of each other, in which heads, layers and rows count, and in what is
made of the sum. Each says where it comes from and where it departs from there (``card``). What all depart in: attention
is summed in float32 (the authors run float16), a prompt's pieces are tokenised one by one, the user's turn is the
model's chat template's (theirs leaves line breaks out: set ``turn``), a token that lies *at* the filter's threshold
stays (theirs drops it, which matters only where all of a passage's are equal), and a passage of one token keeps it
(theirs has no deviation then).

Lives here: ``policy`` (what all have), ``listwise`` and ``order_free`` (what some share), ``scores`` (from tokens to
passages), and the methods.
"""

from typing import TYPE_CHECKING

from ....rag.tables import lazy

if TYPE_CHECKING:
    from .attention_sorting import AttentionSorting
    from .block_icr import BlockICR
    from .block_rank import BlockRank
    from .core import CoRe
    from .icr import ICR
    from .layer_band import LayerBand
    from .policy import Policy
    from .qrhead import QRHead

POLICIES = {
    "AttentionSorting": ".attention_sorting:AttentionSorting",
    "BlockICR": ".block_icr:BlockICR",
    "BlockRank": ".block_rank:BlockRank",
    "CoRe": ".core:CoRe",
    "ICR": ".icr:ICR",
    "LayerBand": ".layer_band:LayerBand",
    "QRHead": ".qrhead:QRHead",
}
__all__ = ["ICR", "AttentionSorting", "BlockICR", "BlockRank", "CoRe", "LayerBand", "Policy", "QRHead"]
__getattr__ = lazy(__name__, POLICIES, {"Policy": ".policy:Policy"})
