"""Bytes to text, honestly: what the bytes declare, then UTF-8, then Windows-1252, and no guess beyond that."""

from __future__ import annotations

import codecs
import re

from .skips import Unreadable

_MARKS = (  # the longer marks first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_ENDS = re.compile(r"\r\n?")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# what text files do not hold; form feed, backspace and escape occur
_CONTROLS = bytes(set(range(32)) - {8, 9, 10, 12, 13, 27})

_NO_CHARACTER = re.compile(r"&#(?:[0-9]{1000,}|x[0-9a-f]{1000,});?", re.IGNORECASE)


class BinaryData(Unreadable):
    """The bytes are not text in any encoding that is tried."""


def decode(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """``(text, encoding)`` with ``\\n`` line ends, as text mode gives them: a byte-order mark, ``declared``, UTF-8,
    Windows-1252.

    Raises ``BinaryData`` with the reason: a NUL byte, control characters in plenty, or bytes that fit none of these
    encodings.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark):], encoding), encoding
    if b"\0" in data:
        raise BinaryData("a binary file (it has NUL bytes)")
    if len(data) - len(data.translate(None, _CONTROLS)) > len(data) // 50:
        raise BinaryData("a binary file (more than one byte in fifty is a control character)")
    for encoding in filter(None, (declared, "utf-8", "cp1252")):
        try:
            return _strict(data, encoding), encoding
        except (BinaryData, LookupError):
            continue  # the next encoding of the list; what was declared may be no text encoding at all
    raise BinaryData("neither UTF-8 nor Windows-1252 text")


def _strict(data: bytes, encoding: str) -> str:
    try:
        return _LINE_ENDS.sub("\n", data.decode(encoding))
    except UnicodeError as error:  # some codecs raise no more than this
        raise BinaryData(f"not valid {encoding}: {error}") from None


def well_formed(text: str) -> str:
    """``text`` with surrogate pairs joined and lone surrogates (JSON and PDF can hold them) replaced by U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def without_huge_references(markup: str) -> str:
    """``markup`` with character references of a thousand digits replaced by U+FFFD: Python makes no number of much
    longer ones."""
    return _NO_CHARACTER.sub("\ufffd", markup)
