"""Text to token ids and back, and the token ids that frame a turn of the model's chat template."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

_SENTINEL = "\u2982regard\u2982"
"""Stands for the turn's content while the template is rendered; no template contains it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids around the content of one user turn; ``suffix`` ends where the model's answer begins."""

    prefix: list[int]
    suffix: list[int]


class Vocabulary:
    """A Hugging Face tokenizer, for use from several threads."""

    def __init__(self, tokenizer: Any, stop: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # the tokenizer's handling of special tokens is a switch on a shared object
        self.stop = frozenset(stop)
        """Token ids that end a turn."""

    def tokens(self, text: str) -> list[int]:
        """Token ids of untrusted ``text``: no token is added, and text that spells a special token stays plain text.

        A passage can therefore not end the turn that it stands in. (Tokens which a tokenizer's author added without
        calling them special, such as Qwen's ``<think>``, are still recognised.) Lone surrogates become ``?``.
        """
        return self._encode(text.encode("utf-8", "replace").decode("utf-8"), plain=True)

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`tokens` of many texts at once, which is faster."""
        if not texts:
            return []
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        with self._lock:
            encoded = self._tokenizer(clean, add_special_tokens=False, split_special_tokens=True, verbose=False,
                                      return_attention_mask=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def template_tokens(self, text: str) -> list[int]:
        """Token ids of trusted text, a chat template's or a setting's: special tokens are recognised, none is added."""
        return self._encode(text, plain=False)

    def _encode(self, text: str, *, plain: bool) -> list[int]:
        with self._lock:
            encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=plain, verbose=False)
        return list(encoded["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, without special tokens; bytes that form no character become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds; together they are the text of ``ids``. A character's first bytes alone add
        nothing."""
        shown, pieces = "", []
        for i in range(len(ids)):
            text = self.text(ids[:i + 1])
            whole = shown if text.endswith("\ufffd") and i + 1 < len(ids) else text
            pieces.append(whole[len(shown):])
            shown = whole
        return pieces

    def turn(self, system: str | None = None) -> tuple[str, str]:
        """The chat template's text before and after the content of one user turn, up to where the answer begins.

        Without ``system`` the template's own default system message stands, if it has one. A template that knows no
        system message gets it at the head of the user's turn. A model without a template gets its beginning-of-sequence
        token.
        """
        if not self._tokenizer.chat_template:
            return (self._tokenizer.bos_token or "") + (f"{system}\n\n" if system else ""), ""
        prefix, _, suffix = self._rendered(system).partition(_SENTINEL)
        return prefix, suffix

    def _rendered(self, system: str | None) -> str:
        from jinja2 import TemplateError  # transformers' chat templates need it

        user = {"role": "user", "content": _SENTINEL}
        if system is None:
            return self._render([user])
        try:
            text = self._render([{"role": "system", "content": system}, user])
        except TemplateError:
            text = ""
        if system.strip() not in text:
            text = self._render([{"role": "user", "content": f"{system}\n\n{_SENTINEL}"}])
        return text

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def frame(self, system: str | None = None) -> Frame:
        """:meth:`turn` as token ids."""
        prefix, suffix = self.turn(system)
        return Frame(self.template_tokens(prefix), self.template_tokens(suffix))
