"""Documents to passages with exact character spans: whole, sentences packed to a token budget, fixed tokens, Markdown sections.

Every passage's text is ``document.text[start:end]``; nothing but white space lies outside the passages. Tokens are counted as the
named tokenizer counts them in the document as a whole (each document is tokenised once), without special tokens and without the
title.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ...rag.errors import ConfigError, ModelNotFound, UnsupportedModel
from ...rag.models import resolve
from ...rag.nouns import Document, Passage
from ...rag.text import Span, sentence_spans, words
from ..corpus.limits import Limits
from ..corpus.markdown import Heading
from ..corpus.parsing import parse

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDS = "words"
DEFAULT_LIMITS = Limits()
_SEGMENT = 200_000  # characters tokenised at once: a document of any length needs bounded memory
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_FORMS = "whole; sentences:200,overlap=40; tokens:128,overlap=16; markdown:300,overlap=0; all but whole take tokenizer=NAME"


class Chunker(Protocol):
    """Cuts documents. Making one loads nothing; the tokenizer is read with the first document."""

    @property
    def spec(self) -> str:
        """The text that :func:`chunker` makes this chunker from."""

    def chunk(self, document: Document, limits: Limits = DEFAULT_LIMITS) -> list[Passage]:
        """The document's passages in order, with its title and metadata; none when it has nothing but white space.

        Raises ``Unreadable`` where they would go over one of ``limits``.
        """

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the passages, as plain JSON."""


def chunker(spec: str) -> Chunker:
    """Make the chunker that ``spec`` names: ``name[:budget][,setting=value...]``. Raises ``ConfigError`` that lists the forms."""
    head, *settings = spec.strip().split(",")
    name, _, budget = head.partition(":")
    kind = _KINDS.get(name.strip())
    if kind is None:
        raise ConfigError(f"there is no chunker {name.strip()!r}", where=f"chunker {spec!r}", hint=f"forms: {_FORMS}")
    given = dict(_setting(setting, spec) for setting in (*([f"budget={budget}"] if budget else []), *settings))
    unknown = given.keys() - kind.__dataclass_fields__.keys()
    if unknown or len(given) < len(settings) + bool(budget):
        wrong = f"the chunker {name!r} has no setting {min(unknown)!r}" if unknown else "a setting is given twice"
        raise ConfigError(wrong, where=f"chunker {spec!r}", hint=f"forms: {_FORMS}")
    made: Chunker = kind(**given)
    return made


def _setting(text: str, spec: str) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key or not value:
        raise ConfigError(f"{text.strip()!r} is not a setting", where=f"chunker {spec!r}", hint=f"forms: {_FORMS}")
    if key == "tokenizer":
        return key, value
    if not value.isascii() or not value.isdigit():
        raise ConfigError(f"{key} is a whole number, not {value!r}", where=f"chunker {spec!r}", hint=f"forms: {_FORMS}")
    return key, int(value)


@dataclass(frozen=True, slots=True)
class WholeDocument:
    """One passage a document, under the document's own id; surrounding white space is left out."""

    @property
    def spec(self) -> str:
        return "whole"

    def chunk(self, document: Document, limits: Limits = DEFAULT_LIMITS) -> list[Passage]:
        spans = _stripped(document.text, [(0, len(document.text))])
        for start, end in spans:
            if end - start > limits.passage_characters:
                raise limits.over(f"a passage of {end - start:,} characters (every chunker but whole cuts it)", "passage_characters")
        return [
            Passage(document.id, document.id, document.text[start:end], start, end, document.title, document.metadata)
            for start, end in spans
        ]

    def fingerprint(self) -> dict[str, Any]:
        return {"chunker": "whole", "version": 1}


@dataclass(frozen=True)
class _Budgeted:
    """What the chunkers with a token budget share. ``overlap`` tokens, at most, are repeated from the passage before."""

    name: ClassVar[str]
    budget: int
    overlap: int = 0
    tokenizer: str = "minilm"

    def __post_init__(self) -> None:
        if self.budget < 1 or not 0 <= self.overlap < self.budget:
            raise ConfigError(f"a budget of {self.budget} tokens with an overlap of {self.overlap}", where=f"chunker {self.name!r}",
                              hint="the budget is at least 1, the overlap at least 0 and below the budget")

    @property
    def spec(self) -> str:
        other = "" if self.tokenizer == "minilm" else f",tokenizer={self.tokenizer}"
        return f"{self.name}:{self.budget},overlap={self.overlap}{other}"

    def fingerprint(self) -> dict[str, Any]:
        return {"chunker": self.name, "version": 1, **asdict(self), "tokenizer_hash": _tokenizer_hash(self.tokenizer)}


@dataclass(frozen=True)
class Sentences(_Budgeted):
    """Whole sentences packed up to ``budget`` tokens; the next passage repeats trailing sentences of at most ``overlap`` tokens.

    A sentence longer than the budget is cut at token borders.
    """

    name = "sentences"
    budget: int = 200
    overlap: int = 40

    def chunk(self, document: Document, limits: Limits = DEFAULT_LIMITS) -> list[Passage]:
        tokens = TokenStarts.of(document.text, self.tokenizer)
        units = _units(document.text, 0, len(document.text), tokens, self.budget)
        return _passages(document, [(span, "") for span in _pack(units, tokens, self.budget, self.overlap)], limits)


@dataclass(frozen=True)
class FixedTokens(_Budgeted):
    """Windows of ``budget`` tokens, each starting ``budget - overlap`` tokens after the one before. Borders may fall inside
    words."""

    name = "tokens"
    budget: int = 128
    overlap: int = 16

    def chunk(self, document: Document, limits: Limits = DEFAULT_LIMITS) -> list[Passage]:
        tokens = TokenStarts.of(document.text, self.tokenizer)
        spans = _windows(document.text, tokens, self.budget, self.overlap)
        return _passages(document, [(span, "") for span in spans], limits)


@dataclass(frozen=True)
class MarkdownSections(_Budgeted):
    """One passage a section (a heading with its text up to the next heading); a section over the budget is packed by sentences.

    ``metadata["section"]`` is the path of headings, ``"Guide > Install"``. A heading without text of its own joins its first
    subsection.
    """

    name = "markdown"
    budget: int = 300

    def chunk(self, document: Document, limits: Limits = DEFAULT_LIMITS) -> list[Passage]:
        tokens = TokenStarts.of(document.text, self.tokenizer)
        pieces: list[tuple[Span, str]] = []
        for (start, end), path in _sections(document.text, limits):
            spans = [(start, end)]
            if tokens.count(start, end) > self.budget:
                spans = _pack(_units(document.text, start, end, tokens, self.budget), tokens, self.budget, self.overlap)
            pieces += [(span, path) for span in spans]
        return _passages(document, pieces, limits)


_KINDS: dict[str, type[Any]] = {"whole": WholeDocument, "sentences": Sentences, "tokens": FixedTokens, "markdown": MarkdownSections}


@dataclass(frozen=True, slots=True)
class TokenStarts:
    """Where each token of a text starts: ascending character offsets, int64 [tokens]."""

    starts: NDArray[np.int64]

    @classmethod
    def of(cls, text: str, tokenizer: str) -> TokenStarts:
        """Tokenise ``text`` once, in segments that end at white space."""
        offsets = _word_starts if tokenizer == WORDS else functools.partial(_model_starts, _load_tokenizer(tokenizer))
        pieces = [np.asarray(offsets(text[a:b]), dtype=np.int64) + a for a, b in _segments(text)]
        # byte-level tokenizers give the pieces of one character the same start; some normalisers put characters in another order
        return cls(np.sort(np.concatenate(pieces)) if pieces else np.empty(0, dtype=np.int64))

    def before(self, position: int) -> int:
        """How many tokens start before ``position``."""
        return int(self.starts.searchsorted(position))

    def count(self, start: int, end: int) -> int:
        return self.before(end) - self.before(start)

    def border(self, start: int, end: int, budget: int) -> int:
        """The furthest token border in ``(start, end]`` with at most ``budget`` tokens before it; one whole character at least."""
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
        raise ModelNotFound(f"the tokenizer of {repo!r} is not to be had: {error}", where=f"{repo}/tokenizer.json",
                            hint="check the name and the network, or use tokenizer=minilm or tokenizer=words") from error


@functools.lru_cache(maxsize=16)
def _tokenizer_hash(name: str) -> str:
    if name == WORDS:
        return "regard.rag.text.words"
    import hashlib

    return hashlib.blake2b(_tokenizer_file(name).read_bytes(), digest_size=16).hexdigest()


def _units(text: str, start: int, end: int, tokens: TokenStarts, budget: int) -> list[Span]:
    """The sentences of ``text[start:end]``, those over the budget cut at token borders."""
    units: list[Span] = []
    for a, b in sentence_spans(text[start:end]):
        left, right = start + a, start + b
        while left < right:
            border = tokens.border(left, right, budget)
            units.append((left, border))
            left = border
    return _stripped(text, units)


def _pack(units: Sequence[Span], tokens: TokenStarts, budget: int, overlap: int) -> list[Span]:
    """Greedy: as many units as the budget holds; then step back over trailing units that fit the overlap and leave room for a new
    one."""
    spans: list[Span] = []
    first = 0
    while first < len(units):
        after = first + 1
        while after < len(units) and tokens.count(units[first][0], units[after][1]) <= budget:
            after += 1
        spans.append((units[first][0], units[after - 1][1]))
        if after == len(units):
            break
        first, begun = after, first
        while first - 1 > begun and _repeats(units, first - 1, after, tokens, budget, overlap):
            first -= 1
    return spans


def _repeats(units: Sequence[Span], first: int, after: int, tokens: TokenStarts, budget: int, overlap: int) -> bool:
    start = units[first][0]
    return tokens.count(start, units[after - 1][1]) <= overlap and tokens.count(start, units[after][1]) <= budget


def _windows(text: str, tokens: TokenStarts, budget: int, overlap: int) -> list[Span]:
    spans: list[Span] = []
    start = 0
    while start < len(text):
        end = tokens.border(start, len(text), budget)
        spans.append((start, end))
        if end == len(text):
            break
        back = int(tokens.starts[max(tokens.before(end) - overlap, 0)])
        # tokens that share a start move together: where stepping back would not get past this window's end, there is no overlap
        start = back if tokens.border(back, len(text), budget) > end else end
    return spans


def _sections(text: str, limits: Limits) -> Iterator[tuple[Span, str]]:
    """``(span, path of headings)``: what precedes the first heading, then section by section."""
    marks = [Heading(*fields) for fields in parse("headings", text.encode("utf-8", "surrogatepass"), limits)]
    if not marks or marks[0].start > 0:
        yield (0, marks[0].start if marks else len(text)), ""
    path: list[tuple[int, str]] = []
    begin: int | None = None
    for number, mark in enumerate(marks):
        path = [*((level, name) for level, name in path if level < mark.level), (mark.level, mark.text)]
        following = marks[number + 1] if number + 1 < len(marks) else None
        end = following.start if following else len(text)
        begin = mark.start if begin is None else begin
        if following and following.level > mark.level and not text[mark.end:end].strip():
            continue
        yield (begin, end), " > ".join(name for _, name in path)
        begin = None


def _stripped(text: str, spans: Sequence[Span]) -> list[Span]:
    """The spans without surrounding white space; those with nothing else are left out."""
    kept: list[Span] = []
    for start, end in spans:
        piece = text[start:end]
        inner = piece.strip()
        if inner:
            left = start + len(piece) - len(piece.lstrip())
            kept.append((left, left + len(inner)))
    return kept


def _passages(document: Document, pieces: Sequence[tuple[Span, str]], limits: Limits) -> list[Passage]:
    """The passages of ``pieces``, each a span and the path of its section; empty where it has none."""
    cut = [(span, path) for whole, path in pieces for span in _stripped(document.text, _cut(document.text, whole, limits))]
    repeated = limits.repeated_characters(document)
    stored = sum(end - start + repeated + len(path) for (start, end), path in cut)
    if stored > limits.stored_characters:
        raise limits.over(f"passages of {stored:,} characters together", "stored_characters")
    return [
        Passage(f"{document.id}#{number}", document.id, document.text[start:end], start, end, document.title,
                {**document.metadata, "section": path} if path else document.metadata)
        for number, ((start, end), path) in enumerate(cut)
    ]


def _cut(text: str, span: Span, limits: Limits) -> list[Span]:
    """``span`` in pieces of at most ``passage_characters``; where there is a space near the end of one, it is cut there."""
    longest, (start, end) = limits.passage_characters, span
    pieces: list[Span] = []
    while end - start > longest:
        space = text.rfind(" ", start + longest - longest // 10, start + longest)
        border = space if space > start else start + longest
        pieces.append((start, border))
        start = border
    return [*pieces, (start, end)]
