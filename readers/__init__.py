"""Readers: stages that take queries and their rankings and give answers with citations.

Lives here: ``reader`` (the shared language model), ``remote`` (any OpenAI-compatible server, over ``chat``, ``http``
with its limits, and ``masking`` of keys), and what both share: ``packing`` (which passages fit), ``prompt`` (how they
are shown), ``citations`` (which passages are similar to each sentence), ``verifiers`` and ``lexical`` (whether those
entail it), ``ending`` (repeats), ``base``. A new stage is a file
and a line in the table.

May import: ``rag`` (but ``rag.app``) and ``kernels``. Importing this package loads no model library.
"""

from typing import TYPE_CHECKING

from ..rag.tables import lazy

if TYPE_CHECKING:
    from .reader import Reader
    from .remote import RemoteReader

STAGES = {
    "Reader": ".reader:Reader",
    "RemoteReader": ".remote:RemoteReader",
}
VERIFIERS = {
    "lexical": ".lexical:LexicalVerifier",
    "lm": ".verifiers:LMVerifier",
    "nli": ".verifiers:NLIVerifier",
}
__all__ = ["STAGES", "VERIFIERS", "Reader", "RemoteReader"]
__getattr__ = lazy(__name__, STAGES)
