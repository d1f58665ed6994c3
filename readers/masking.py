"""Taking a secret out of text, in every form in which servers and libraries write one."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Callable

MASK = "***"
_NAMED = {'"': "&quot;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;"}
HARMLESS = 6
"""Characters of a secret, or of a form of it, that give nothing away."""
_LAST_WORD = re.compile(r"[!-~]+\Z")
_LEAST = 6
"""Characters that a secret's base64 must have to be told from other text."""


class Secret:
    """A secret that shows itself to nobody who does not ask: a log or a traceback with its variables prints three
    stars."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return MASK


def masked(text: str, secret: Secret) -> str:
    """``text`` with ``***`` where ``secret`` stands: as it is; with any of its characters percent-encoded, or escaped
    as in JSON or HTML; in hexadecimal; and within base64 (either alphabet, with or without padding, broken into lines),
    whatever stands around it there.
    """
    return _forms(secret.reveal()).sub(MASK, text) if secret else text


class MaskedStream:
    """Passes pieces of text on without ``secret``, also where a form of it comes in several pieces: of a word that has
    no end yet only the first characters, too few to give anything away. Base64 that is broken into lines is not put
    together here, as it is by :func:`masked`.
    """

    def __init__(self, secret: Secret, show: Callable[[str], None]) -> None:
        self._secret = secret
        self._show = show
        self._word = ""
        self._shown = 0
        """Characters of ``_word`` that were passed on."""

    def __call__(self, piece: str) -> None:
        text = self._word + piece
        word = _LAST_WORD.search(text) if self._secret else None
        start = word.start() if word else len(text)
        ready = self._clean(text[:start]) if start else ""
        self._word = text[start:]
        most = longest(self._secret)
        if len(self._word) > 4 * most:
            clean = self._clean(self._word)
            ready, self._word = ready + clean[:-most], clean[-most:]
        elif self._shown < HARMLESS:
            ready += self._word[self._shown:HARMLESS]
            self._shown = min(len(self._word), HARMLESS)
        if ready:
            self._show(ready)

    def finish(self) -> None:
        """Pass on what was held back."""
        rest = self._clean(self._word)
        self._word = ""
        if rest:
            self._show(rest)

    def _clean(self, text: str) -> str:
        """What is to be shown of ``text``, whose beginning was."""
        clean = masked(text, self._secret)
        rest = clean[self._shown:] if clean.startswith(text[:self._shown]) else clean
        self._shown = 0
        return rest


def longest(secret: Secret) -> int:
    """The characters that the longest form of ``secret`` has (each character as ``%25XX`` or ``&#xXXXX;``): what may be
    cut in two where a text ends early."""
    return 8 * len(secret.reveal())


@functools.lru_cache(maxsize=8)
def _forms(secret: str) -> re.Pattern[str]:
    forms = [_escaped(secret), _hexadecimal(secret), *_base64(secret.encode())]
    return re.compile("|".join(f"(?:{form})" for form in forms))


def _escaped(secret: str) -> str:
    return "".join(map(_ways, secret))


def _ways(character: str) -> str:
    """The ways to write one character."""
    code = ord(character)
    ways = [rf"\\{{0,7}}{re.escape(character)}", rf"(?i:%(?:25){{0,3}}{code:02x})",
            rf"(?i:\\{{1,7}}u{code:04x}|\\{{1,7}}x{code:02x})",
            rf"(?i:&#0{{0,5}}{code};|&#x0{{0,5}}{code:x};)"]
    if character in _NAMED:
        ways.append(_NAMED[character])
    return f"(?:{'|'.join(ways)})"


def _hexadecimal(secret: str) -> str:
    return f"(?i:{secret.encode().hex()})"


def _base64(secret: bytes) -> list[str]:
    """The part of each of the three encodings that the secret alone decides, with what it shares with its
    neighbours."""
    found = []
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret).decode().rstrip("=")
        shared = (before + len(secret)) % 3 != 0
        own = text[(0, 2, 3)[before]:len(text) - shared]
        if len(own) >= _LEAST:
            around = r"[A-Za-z0-9+/_-]"
            found.append(rf"{around}{{0,{2 if before else 0}}}" + r"\s*".join(map(_letter, own))
                         + rf"(?:{around}?(?:=|%3[Dd]){{0,2}})")
    return found


def _letter(letter: str) -> str:
    """A letter of base64 in both alphabets, percent-encoded or not."""
    return {"+": r"(?:[+-]|%2[Bb])", "/": r"(?:[/_]|%2[Ff]|\\/)"}.get(letter, letter)
