"""What counts as a content word of an English text: what citations compare and the lexical verifier asks for."""

from __future__ import annotations

import re
from functools import lru_cache

from ..rag.text import words

STOP_WORDS = frozenset(re.findall(r"\w+", """
    a about after all also am an and any are as at be because been before being between both but by can could d did
    didn do does doesn don each for from had has have he her here him his how i if in into is isn it its itself just
    ll m may me might more most must my no nor not of on once only or other our out over own re s she should so some
    such t than that the their them then there these they this those through to too under until up use used using ve
    very was wasn we were what when where which while who whom why will with won would yes you your
"""))
_CODE_NAME = re.compile(r"\b\w{2,}(?:[._]\w{2,})+")
_IDENTIFIER_PART = re.compile(r"[^\W_]+")


@lru_cache(16384)
def content_words(text: str) -> frozenset[str]:
    """The distinct stems of ``text``'s words, stop words left out; identifiers are split at their underscores and
    dots."""
    import Stemmer

    parts = [part for word in words(text) for part in _IDENTIFIER_PART.findall(word)]
    content = [part for part in parts if part not in STOP_WORDS]
    # made here: a stemmer must not be shared between threads
    return frozenset(Stemmer.Stemmer("english").stemWords(content))


def code_names(text: str) -> list[str]:
    """Dotted or underscored identifiers: ``os.rmdir``, ``rm_tree``."""
    return _CODE_NAME.findall(text)
