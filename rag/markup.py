"""Values as people read them, safe in a terminal and inside XML and HTML: one definition for every view."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_LINE_ENDS = re.compile("\r\n|[\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"  # controls; a terminal obeys those of C1, too
    "\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    # what Unicode says is not drawn, and what turns the direction
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(plane | 0xfffe)}{chr(plane | 0xffff)}" for plane in range(0, 0x110000, 0x10000)) + "]")
# of England, Scotland, Wales
_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
_JOINERS = "\u200c\u200d"
_SELECTORS = re.compile("[\ufe00-\ufe0f\u180b-\u180d\u180f\U000e0100-\U000e01ef]")
_SPECIAL = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def visible(text: str) -> str:
    """``text`` as it may be shown: what a terminal would obey, and what is not drawn, stands there as a mark such as
    ``<U+202E>``.

    Marked are control characters (C0 but tab and line feed, DEL, C1), what turns the direction of writing, what has no
    width and no ink (zero-width spaces, tags, fillers), lone surrogates and non-characters. A line end of any kind
    becomes a line feed. Kept are the soft hyphen, and what scripts and emoji are written with: a joiner after a letter
    that is not Latin, Greek or Cyrillic, or after a symbol; one variation selector after a character; the flags of
    England, Scotland and Wales.
    """
    text = _LINE_ENDS.sub("\n", text)
    return text if _HIDDEN.search(text) is None else _marked(text)


def _marked(text: str) -> str:
    flags = {place for flag in _FLAG.finditer(text) for place in range(*flag.span())}

    def mark(found: re.Match[str]) -> str:
        place = found.start()
        return found[0] if place in flags or _belongs(text, place) else f"<U+{ord(found[0]):04X}>"

    return _HIDDEN.sub(mark, text)


def _belongs(text: str, place: int) -> bool:
    """Whether the character at ``place``, which is not drawn, decides how the one before it is; at most two characters
    back tell."""
    if not place or text[place - 1].isspace():
        return False
    char, before = text[place], text[place - 1]
    if char in _JOINERS:
        drawn = _HIDDEN.match(before) is None or (_SELECTORS.match(before) is not None and _belongs(text, place - 1))
        return drawn and before >= "\u0590" and unicodedata.category(before)[0] in "LMS"
    return _SELECTORS.match(char) is not None and _HIDDEN.match(before) is None


class Streamed:
    """:func:`visible` of a text that comes in pieces: ``shown(piece)`` for one after another."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, piece: str) -> str:
        begun = len(visible(self._last))
        text = self._last + piece
        self._last = text[-2:]
        return visible(text)[begun:]


def json_escaped(text: str) -> str:
    """JSON text with the characters that :func:`visible` marks written as JSON's own escapes: the same data."""
    return _HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def escape(text: object) -> str:
    """``text`` for element content or a quoted attribute, in HTML and in XML; see :func:`visible`."""
    return visible(str(text)).translate(_SPECIAL)


def one_line(text: str) -> str:
    """``text`` with every run of white space as one space; see :func:`visible`."""
    return " ".join(visible(text).split())


def shorten(text: str, limit: int) -> str:
    """``text`` of at most ``limit`` characters: cut at a word where one ends near, with an ellipsis in place of the
    rest."""
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
