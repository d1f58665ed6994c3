"""Counting tokens: where each token of a text starts, by a model's tokenizer or by words."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...rag.errors import ModelNotFound, UnsupportedModel
from ...rag.models import resolve
from ...rag.text import Span, words

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDS = "words"
"""As a tokenizer: the words of ``regard.rag.text``."""

_SEGMENT = 200_000  # characters tokenised at once: a document of any length needs bounded memory
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TokenStarts:
    """Where each token of a text starts: ascending character offsets, int64 [tokens]."""

    starts: NDArray[np.int64]

    @classmethod
    def of(cls, text: str, tokenizer: str) -> TokenStarts:
        """Tokenise ``text`` once, in segments that end at white space."""
        offsets = _word_starts if tokenizer == WORDS else functools.partial(_model_starts, _load_tokenizer(tokenizer))
        pieces = [np.asarray(offsets(text[a:b]), dtype=np.int64) + a for a, b in _segments(text)]
        # byte-level tokenizers give the pieces of one character the same start; some normalisers reorder characters
        return cls(np.sort(np.concatenate(pieces)) if pieces else np.empty(0, dtype=np.int64))

    def before(self, position: int) -> int:
        """How many tokens start before ``position``."""
        return int(self.starts.searchsorted(position))

    def count(self, start: int, end: int) -> int:
        return self.before(end) - self.before(start)

    def border(self, start: int, end: int, budget: int) -> int:
        """The furthest token border in ``(start, end]`` with at most ``budget`` tokens before it; one whole character
        at least."""
        first = self.before(start)
        if first + budget >= len(self.starts) or self.starts[first + budget] >= end:
            return end
        border = int(self.starts[first + budget])
        if self.starts[first] < border:
            return border
        beyond = int(np.searchsorted(self.starts, border, side="right"))  # one character of more tokens than the budget
        return min(end, int(self.starts[beyond])) if beyond < len(self.starts) else end


def _segments(text: str) -> Iterator[Span]:
    start = 0
    while start < len(text):
        end = start + _SEGMENT
        if end < len(text):
            space = next((i for i in range(end, end - 2000, -1) if text[i].isspace()), None)
            end = end if space is None else space
        yield start, min(end, len(text))
        start = end


def _word_starts(text: str) -> list[int]:
    """One start a word of ``regard.rag.text``; the words of ``well-known`` share theirs, so that it is never cut."""
    return [match.start() for match in re.finditer(r"\S+", text) for _ in words(match.group())]


def _model_starts(tokenizer: Tokenizer, text: str) -> list[int]:
    # tokenizers refuse a lone surrogate; the replacement has the same length
    encoding = tokenizer.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False)
    return [start for start, _ in encoding.offsets]


@functools.lru_cache(maxsize=4)
def _load_tokenizer(name: str) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_tokenizer_file(name)))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokenizer_file(name: str) -> Path:
    files = resolve(name)
    if not files.local:
        return _hub_tokenizer_file(files.path)
    path = Path(files.path)
    found = path if path.name == "tokenizer.json" else path / "tokenizer.json"
    if not found.is_file():
        raise UnsupportedModel(f"the model {name!r} has no tokenizer.json to count tokens with", where=str(path),
                               hint="name another tokenizer (minilm, bge-small, a folder, a Hugging Face id) or words")
    return found


def _hub_tokenizer_file(repo: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, "tokenizer.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            f"the tokenizer of {repo!r} is not to be had: {error}", where=f"{repo}/tokenizer.json",
            hint="check the name and the network, or use tokenizer=minilm or tokenizer=words") from error


@functools.lru_cache(maxsize=16)
def tokenizer_hash(name: str) -> str:
    """Of the file that tokens are counted by."""
    if name == WORDS:
        return "regard.rag.text.words"
    import hashlib

    return hashlib.blake2b(_tokenizer_file(name).read_bytes(), digest_size=16).hexdigest()
