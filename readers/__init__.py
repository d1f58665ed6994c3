"""Readers: stages that take queries and their rankings and give answers with citations.

Lives here: ``reader`` (the shared language model), ``remote`` (any OpenAI-compatible server, over ``chat``, ``http`` with its limits, and
``masking`` of keys), and what both share: ``packing`` (which passages fit), ``prompt`` (how they are shown), ``citations`` (which passages
are similar to each sentence), ``verifiers`` and ``lexical`` (whether those entail it), ``ending`` (repeats), ``base``.

May import: ``rag`` and ``kernels``. Importing this package loads no model library.
"""

from .reader import Reader
from .remote import RemoteReader

__all__ = ["Reader", "RemoteReader"]
