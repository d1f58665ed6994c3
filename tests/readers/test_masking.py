"""A secret is found in every form in which something writes it."""

from __future__ import annotations

import base64
import html
import json
import re
import string
import time
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.readers.masking import MaskedStream, Secret, longest, masked

PRINTABLE = string.ascii_letters + string.digits + string.punctuation
KEYS = st.text(PRINTABLE, min_size=12, max_size=80)


def _base64s(text: bytes) -> list[str]:
    standard, url = base64.b64encode(text).decode(), base64.urlsafe_b64encode(text).decode()
    return [standard, standard.rstrip("="), url, url.rstrip("="), urllib.parse.quote(standard, safe=""),
            base64.encodebytes(text).decode()]


def forms(key: str) -> list[str]:
    """``key`` as servers and libraries would write it."""
    percent = urllib.parse.quote(key, safe="")
    every = "".join(f"%{ord(c):02x}" for c in key)
    lower = re.sub("%..", lambda found: found[0].lower(), percent)
    written = [key, percent, lower, urllib.parse.quote_plus(key), every, urllib.parse.quote(percent),
               json.dumps(key)[1:-1], json.dumps(json.dumps(key))[3:-3], json.dumps(key)[1:-1].replace("/", "\\/"),
               "".join(f"\\u{ord(c):04X}" for c in key), html.escape(key), html.escape(key, quote=False),
               "".join(f"&#{ord(c)};" for c in key), "".join(f"&#x{ord(c):X};" for c in key),
               key.encode().hex(), key.encode().hex().upper(), repr(key)[1:-1]]
    for before in (b"", b"Bearer ", b"user:", b"a", b"ab", b'{"k": "'):
        for after in (b"", b"x", b'"}', b"\n"):
            written += _base64s(before + key.encode() + after)
    return written


def leaked(text: str, key: str, least: int = 10) -> bool:
    """Whether ``least`` characters of ``key`` in a row can be read from ``text``, as they are or out of base64:
    decoded, not by pattern."""
    parts = [key[i:i + least] for i in range(len(key) - least + 1)]
    plain = [text, urllib.parse.unquote(text), html.unescape(text)]
    run = "".join(c if c.isalnum() or c in "+/-_" else " "
                  for c in text.replace("\n", "")).replace("-", "+").replace("_", "/")
    for word in run.split():
        for start in range(4):
            cut = word[start:]
            plain.append(base64.b64decode(cut[:len(cut) // 4 * 4]).decode("latin-1"))
    return any(part in one for one in plain for part in parts)


@given(KEYS, st.sampled_from(["", "Incorrect key: ", "<b>"]), st.sampled_from(["", " was given", "</b>"]))
def test_no_form_of_a_key_stays(key: str, before: str, after: str) -> None:
    for form in forms(key):
        clean = masked(f"{before} {form} {after}", Secret(key))
        assert "***" in clean, form
        assert key not in clean
        assert form.strip() not in clean


def test_what_is_left_of_a_key_cannot_be_decoded() -> None:
    key = "sk-proj-Zq81/kLm+4729_xYwv=T0pQ"
    for form in forms(key):
        assert leaked(f"said {form} so",
                      key) or "%25" in form or "\\u" in form or "\\\\" in form or form.lower() == key.encode().hex()
        assert not leaked(masked(f"said {form} so", Secret(key)), key), form


@given(KEYS, st.text())
def test_other_text_stays(key: str, text: str) -> None:
    assert masked(text, Secret("")) == text
    if not any(c in key for c in text) and "%" not in text and "&" not in text and "\\" not in text and len(text) < 8:
        assert masked(text, Secret(key)) == text


@pytest.mark.parametrize("text", ["a" * 1_000_000, "%25" * 300_000, "\\" * 1_000_000, "sk-" * 300_000, "c2st" * 250_000,
                                  "&#00" * 200_000])
def test_masking_is_linear(text: str) -> None:
    begun = time.perf_counter()
    masked(text, Secret("sk-very-secret-0123456789"))
    assert time.perf_counter() - begun < 5


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("sk-very-secret")
    assert "very" not in f"{secret} {secret!r} {[secret]} {vars(type(secret))}"
    assert longest(secret) >= max(len(form) for form in forms("sk-very-secret") if "%25" in form or "&#x" in form)


def _streamed(text: str, key: str, size: int) -> str:
    shown: list[str] = []
    stream = MaskedStream(Secret(key), shown.append)
    for i in range(0, len(text), size):
        stream(text[i:i + size])
    stream.finish()
    return "".join(shown)


@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
def test_a_key_that_comes_in_pieces_is_masked(size: int) -> None:
    key = "sk-proj-Zq81/kLm+4729_xYwv=T0pQ"
    for form in forms(key):
        if "\n" not in form:
            for around in ("{}", "It is {} so.", "x" * 3000 + "{}" + "y" * 3000, "a:{},b:{}"):
                assert not leaked(_streamed(around.replace("{}", form), key, size), key), (form, around)


@given(st.text(), st.integers(1, 9))
def test_a_stream_without_the_key_is_the_text(text: str, size: int) -> None:
    assert _streamed(text, "", size) == text
    if "\\" not in text:
        assert _streamed(text, "sk-very-secret-0123456789", size) == text
