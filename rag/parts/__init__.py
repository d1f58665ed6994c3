"""Parts: things with settings, how they are named, and what identifies them.

Lives here: ``part`` (what a part is, and making one), ``fields`` (settings: their types and defaults), ``spec`` (as
text and as plain values), ``schema`` (as a JSON schema),
``identity`` (what a value is, for fingerprints), ``card`` (a method's publication), ``settings`` (types of settings).
May import: ``rag.nouns`` and the files at the bottom of ``rag``.
"""

from .card import Card
from .part import Part, nested, part, register
from .settings import Count, Share
from .spec import parse, plain, text_of

__all__ = ["Card", "Count", "Part", "Share", "nested", "parse", "part", "plain", "register", "text_of"]
