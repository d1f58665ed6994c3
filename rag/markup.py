"""Values as people read them, and safe inside XML and HTML: one definition for every view."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
_SPECIAL = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def clean(text: str) -> str:
    """``text`` without the characters that XML 1.0 or HTML forbid: control characters, lone surrogates, non-characters."""
    return _ILLEGAL.sub("", text)


def escape(text: object) -> str:
    """``text`` for element content or a quoted attribute, in HTML and in XML."""
    return clean(str(text)).translate(_SPECIAL)


def one_line(text: str) -> str:
    """``text`` with every run of white space as one space."""
    return " ".join(clean(text).split())


def shorten(text: str, limit: int) -> str:
    """``text`` of at most ``limit`` characters: cut at a word where one ends near, with an ellipsis in place of the rest."""
    if len(text) <= limit:
        return text
    head = text[:limit - 1]
    cut = head.rfind(" ")
    return (head[:cut] if cut > limit * 0.7 else head).rstrip() + "…"


def shorten_middle(text: str, limit: int) -> str:
    """``text`` of at most ``limit`` characters, cut in the middle: names and ids differ at both ends."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return text[:limit - 1 - tail] + "…" + text[len(text) - tail:]


def duration(seconds: float) -> str:
    """``42 µs``, ``0.42 ms``, ``12 ms``, ``1.23 s``, ``2 min 5 s``."""
    if seconds < 0.0000995:
        return f"{seconds * 1e6:.2g} µs" if seconds else "0 ms"
    if seconds < 0.00995:
        return f"{seconds * 1e3:.2g} ms"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def amount(number: int) -> str:
    """``950``, ``12,345``, ``1.2M``."""
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:.1f}M"


def size(octets: int) -> str:
    """A number of bytes: ``512 B``, ``3.4 MB`` (decimal)."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def score(value: float) -> str:
    """A score with four significant digits, or all of its whole part."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def setting(value: Any) -> str:
    """A setting's value on one line; of a path only the last part."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        text = one_line(value)
        return text.rstrip("/").rsplit("/", 1)[-1] or text if text.startswith(("/", "./", "../", "~")) else text
    if isinstance(value, list | tuple):
        return ", ".join(setting(v) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {setting(v)}" for k, v in value.items())
    return one_line(str(value))


_NARROW = frozenset("iIjlt fr.,:;|!'`()[]{}/\\\"-·")


def text_width(text: str, font_size: float) -> float:
    """About how wide ``text`` is in a sans-serif font, in the unit of ``font_size``; errs on the wide side."""
    return font_size * sum(_em(char) for char in text)


def _em(char: str) -> float:
    if unicodedata.combining(char):
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return 1.05
    if char in "mwMW@%—…→":
        return 0.95
    if char in _NARROW:
        return 0.38
    return 0.6 if char.islower() else 0.7
