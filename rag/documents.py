"""The nouns: small immutable values that stages hand each other.

Nothing here imports a framework. Every class has ``to_dict`` and ``from_dict`` (plain JSON values), and a
``Ranking`` is columnar: handing it on copies nothing, and text is fetched from its store only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError, EmptyQueryError, QueryError, StageError
from .verification import ENTAILED

if TYPE_CHECKING:
    from .attention_view import AttentionView
    from .lm.reading import Reading

T = TypeVar("T", covariant=True)

ScoreSpace = Literal["cosine", "inner-product", "bm25", "logit", "probability", "attention-mass", "rrf", "weighted-sum"]
Rows = NDArray[np.int64]
Scores = NDArray[np.float32]
Metadata = Mapping[str, Any]


class Batch(tuple[T, ...]):
    """An immutable sequence of values, one a query; position ``i`` of every batch in a run belongs to query ``i``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Batch({list(self)!r})"


@contextmanager
def _reading(kind: type, data: object) -> Iterator[None]:
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(f"this is no {kind.__name__}: {error!r:.120}", where=f"{data!r:.80}", hint="give what to_dict gave") from error


class _Json:
    """``to_dict``/``from_dict`` for flat dataclasses."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # every subclass is a dataclass

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises ``ConfigError`` for what :meth:`to_dict` did not give; so does every noun's."""
        with _reading(cls, data):
            return cls(**data)


@dataclass(frozen=True, slots=True)
class Document(_Json):
    """What a corpus reader yields: one source text with its identity."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passage(_Json):
    """A chunk of a document; ``text == document.text[start:end]``, offsets in characters."""

    id: str
    document_id: str
    text: str
    start: int
    end: int
    title: str = ""
    metadata: Metadata = field(default_factory=dict)

    @property
    def full_text(self) -> str:
        """What encoders, BM25 and cross-encoders read: the title, a line break, the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Query(_Json):
    """A question. ``filters`` maps a metadata field to a value, a list of values, or bounds (``{"gte": 2020, "lt": 2024}``)."""

    text: str
    id: str = "q"
    filters: Metadata = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise QueryError(f"a query's text is a {type(self.text).__name__}", where=f"query {self.id!r:.80}", hint="pass a str")
        if not isinstance(self.id, str):
            raise QueryError(f"a query's id is a {type(self.id).__name__}", where=f"query {self.id!r:.80}", hint="pass a str")
        for name, value in (("filters", self.filters), ("metadata", self.metadata)):
            if not isinstance(value, Mapping):
                raise QueryError(f"a query's {name} are a {type(value).__name__}", where=f"query {self.id!r:.80}", hint="pass a mapping")
        if not self.text or not self.text.strip():
            raise EmptyQueryError("the query has no text", where=f"query {self.id!r}", hint="pass a question of at least one word")


@runtime_checkable
class PassageStore(Protocol):
    """Where a ranking's rows get their text. A row is an int64 that names one passage of one store for ever."""

    @property
    def uri(self) -> str:
        """Where ``regard.rag.registry.open_store`` finds this store again; empty for a store in memory."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the content does."""

    @property
    def has_text(self) -> bool: ...

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        """The passages of ``rows``, in that order."""

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The document of each of ``rows``, without fetching text."""


class PassageList:
    """A passage store in memory; row ``i`` is the ``i``-th passage."""

    __slots__ = ("_passages",)
    uri = ""
    has_text = True

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = tuple(passages)

    @property
    def fingerprint(self) -> str:
        return f"memory:{id(self)}"

    def __len__(self) -> int:
        return len(self._passages)

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        return [self._passages[row] for row in self._expect(rows)]

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        return [self._passages[row].document_id for row in self._expect(rows)]

    def _expect(self, rows: Sequence[int] | Rows) -> list[int]:
        wanted = [int(row) for row in rows]
        if any(not 0 <= row < len(self) for row in wanted):
            raise StageError(f"a ranking names rows outside the {len(self)} passages of its store", where="PassageList")
        return wanted


@dataclass(frozen=True, slots=True)
class Touch(_Json):
    """What one stage did to one hit: its rank there (from 1) and its score."""

    stage: str
    rank: int
    score: float
    space: str


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one stage did to every hit of a ranking, columnar; rank 0 where the stage did not rank the hit."""

    stage: str
    space: str
    ranks: NDArray[np.int32]
    scores: Scores

    def take(self, order: NDArray[np.int64]) -> Step:
        return Step(self.stage, self.space, self.ranks[order], self.scores[order])


@dataclass(frozen=True, slots=True)
class Hit:
    """One ranked passage; ``rank`` counts from 1."""

    passage: Passage
    score: float
    rank: int
    history: tuple[Touch, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """One query's ranked passages, best first, columnar.

    ``rows`` int64 [n] into ``store``, ``scores`` float32 [n] in ``space`` (higher is better), ``steps`` the history.
    Make one with :meth:`ranked`; derive one with :meth:`rescore`, :meth:`take` or :meth:`top`.
    """

    rows: Rows
    scores: Scores
    space: ScoreSpace
    store: PassageStore
    steps: tuple[Step, ...] = ()
    reading: Reading | None = None
    """What a language model read to rank these, when one did and the ranking did not come from a file or a cache."""

    @classmethod
    def ranked(
        cls, rows: Sequence[int] | Rows, scores: Sequence[float] | Scores, space: ScoreSpace, store: PassageStore, *,
        stage: str, history: tuple[Step, ...] = (),
    ) -> Ranking:
        """Sort by score, best first; equal scores keep the order they came in. ``history`` is aligned with ``rows``."""
        try:
            row_array = np.asarray(rows, dtype=np.int64)
            score_array = np.asarray(scores, dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise StageError(f"rows are whole numbers and scores are numbers: {error}", where=f"stage {stage!r}") from None
        if row_array.ndim != 1 or row_array.shape != score_array.shape:
            raise StageError(f"{row_array.shape} rows but {score_array.shape} scores", where=f"stage {stage!r}")
        if not np.isfinite(score_array).all():
            raise StageError("a score is not a finite number", where=f"stage {stage!r}",
                             hint="the model gave NaN or infinity: check its dtype and its input")
        order = np.argsort(-score_array, kind="stable")
        step = Step(stage, space, np.arange(1, len(order) + 1, dtype=np.int32), score_array[order])
        return cls(row_array[order], score_array[order], space, store, (*(s.take(order) for s in history), step))

    def rescore(self, scores: Sequence[float] | Scores, space: ScoreSpace, *, stage: str) -> Ranking:
        """A reranker's result: new scores, aligned with this ranking's hits; equal scores keep the present order."""
        return replace(Ranking.ranked(self.rows, scores, space, self.store, stage=stage, history=self.steps), reading=self.reading)

    def read(self, reading: Reading) -> Ranking:
        """This ranking with what was read to make it."""
        return replace(self, reading=reading)

    def show_attention(self, limit: int = 10) -> AttentionView:
        """The first ``limit`` passages with the tokens highlighted that carried their scores: a view for notebooks, with ``save(path)``
        for a web page.

        Raises ``StageError`` when no attention reranker made this ranking, or it came from a file or a cache.
        """
        from .attention_view import attention_view  # views are built only when a notebook asks

        return attention_view(self, limit)

    def keep(self, order: Sequence[int], *, stage: str) -> Ranking:
        """The hits at positions ``order`` with the scores they have, and ``stage`` in their history."""
        kept = self.take(order)
        return kept.rescore(kept.scores, self.space, stage=stage)

    def take(self, order: Sequence[int] | NDArray[np.int64]) -> Ranking:
        """The hits at positions ``order`` (from 0), in that order, with their history."""
        index = np.asarray(order, dtype=np.int64)
        return replace(self, rows=self.rows[index], scores=self.scores[index], steps=tuple(s.take(index) for s in self.steps))

    def top(self, k: int) -> Ranking:
        """The first ``k`` hits (this ranking itself when it has no more). Raises ``ConfigError`` for a ``k`` below 1."""
        if not isinstance(k, int) or k < 1:
            raise ConfigError(f"k is {k!r:.80}", where="Ranking.top", hint="k is how many hits are kept, at least 1")
        return self if k >= len(self) else self.take(np.arange(k))

    def passages(self) -> list[Passage]:
        return self.store.passages(self.rows) if len(self) else []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Hit]:
        for i, passage in enumerate(self.passages()):
            history = tuple(
                Touch(step.stage, int(step.ranks[i]), float(step.scores[i]), step.space) for step in self.steps if step.ranks[i]
            )
            yield Hit(passage, float(self.scores[i]), i + 1, history)

    @overload
    def __getitem__(self, position: int) -> Hit: ...

    @overload
    def __getitem__(self, position: slice) -> Ranking: ...

    def __getitem__(self, position: int | slice) -> Hit | Ranking:
        """The hit at ``position`` (from 0; negative from the end), or the ranking of the hits in a slice."""
        n = len(self)
        if isinstance(position, slice):
            return self.take(np.arange(n)[position])
        if not -n <= position < n:
            raise IndexError(f"position {position} of a ranking with {n} hits")
        position %= n
        return replace(next(iter(self.take([position]))), rank=position + 1)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Ranking) and self.space == other.space and self.store.fingerprint == other.store.fingerprint
            and np.array_equal(self.rows, other.rows) and np.array_equal(self.scores, other.scores)
            and len(self.steps) == len(other.steps)
            and all(
                (a.stage, a.space) == (b.stage, b.space) and np.array_equal(a.ranks, b.ranks) and np.array_equal(a.scores, b.scores)
                for a, b in zip(self.steps, other.steps, strict=True)
            )
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON. A ranking over a store on disk names it; one over a store in memory carries its passages."""
        inline = None if self.store.uri else [p.to_dict() for p in self.passages()]
        return {
            "rows": self.rows.tolist(), "scores": self.scores.tolist(), "space": self.space,
            "store": {"uri": self.store.uri, "fingerprint": self.store.fingerprint}, "passages": inline,
            "steps": [
                {"stage": s.stage, "space": s.space, "ranks": s.ranks.tolist(), "scores": s.scores.tolist()} for s in self.steps
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], store: PassageStore | None = None) -> Ranking:
        """``store`` is needed when ``data`` names one on disk (see ``regard.rag.registry.open_store``)."""
        with _reading(cls, data):
            rows = np.asarray(data["rows"], dtype=np.int64)
            if data["passages"] is not None:
                store = PassageList([Passage.from_dict(p) for p in data["passages"]])
                rows = np.arange(len(rows), dtype=np.int64)
            if store is None:
                raise ConfigError(f"this ranking's passages are in {data['store']['uri']!r}", where="Ranking.from_dict",
                                  hint="pass the opened store: regard.rag.registry.open_store(uri)")
            steps = tuple(
                Step(s["stage"], s["space"], np.asarray(s["ranks"], dtype=np.int32), np.asarray(s["scores"], dtype=np.float32))
                for s in data["steps"]
            )
            return cls(rows, np.asarray(data["scores"], dtype=np.float32), data["space"], store, steps)

    def __repr__(self) -> str:
        best = f", best {self.scores[0]:.4g}" if len(self) else ""
        return f"Ranking({len(self)} passages, {self.space}{best})"

    def _repr_html_(self) -> str:
        from .display import ranking_html  # views are built only when a notebook asks

        return ranking_html(self)


@dataclass(frozen=True, slots=True)
class Context:
    """What the reader was shown: passages in prompt order, each with its half-open token span in the prompt."""

    passages: tuple[Passage, ...]
    spans: tuple[tuple[int, int], ...]
    prompt_tokens: int
    dropped: int = 0  # passages of the ranking that did not fit the budget

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Context:
        with _reading(cls, data):
            return cls(
                tuple(Passage.from_dict(p) for p in data["passages"]), tuple((int(a), int(b)) for a, b in data["spans"]),
                data["prompt_tokens"], data["dropped"],
            )


@dataclass(frozen=True, slots=True)
class Citation(_Json):
    """A character span ``[start, end)`` of the source document that is similar to a sentence.

    ``support`` in [0, 1] is how similar (``readers.citations``), not whether the sentence is true: that is the verifier's verdict.
    """

    passage_id: str
    document_id: str
    start: int
    end: int
    quote: str
    support: float


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer: its character span there, and the positions of its citations, none where no passage is similar.

    ``probability``: the verifier's, that what it cites entails it (0 for a sentence that cites nothing); None without a verifier.
    """

    start: int
    end: int
    citations: tuple[int, ...] = ()
    probability: float | None = None

    @property
    def entailed(self) -> bool | None:
        """The verdict; None where none was asked for."""
        return None if self.probability is None else self.probability >= ENTAILED


@dataclass(frozen=True, slots=True)
class Usage(_Json):
    """Tokens of the prompt and of the completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


_NOTES = {"stop": "", "repetition": "", "filter": "cut by the server's filter", "empty": "the model wrote nothing"}
"""How an answer ends, by ``Answer.finish``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its evidence.

    ``verifier`` names who judged the sentences (``rag.verification`` says how well it does that), None when nobody did. ``finish`` is
    why the model stopped: ``"stop"`` (it was done, or wrote a stop string), ``"length"`` (its tokens ran out), ``"repetition"`` (it began
    to repeat itself), ``"filter"`` (the server's filter ended it), ``"empty"`` (it was done and wrote nothing), another word of a remote
    server's; None when no model was asked, or the server did not say. An answer whose connection broke is none: that is an error.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    context: Context | None = None
    usage: Usage = Usage()
    sentences: tuple[Sentence, ...] = ()
    verifier: str | None = None
    finish: str | None = None

    @property
    def truncated(self) -> bool:
        """Whether the answer ends where its tokens ran out."""
        return self.finish == "length"

    @property
    def note(self) -> str:
        """What is to be said of how it ends, in a few words; empty for one that is whole."""
        if self.finish == "length":
            tokens = self.usage.completion_tokens
            return f"cut at {tokens} tokens" if tokens else "cut: its tokens ran out"
        return _NOTES.get(self.finish, f"ended by the server: {self.finish}") if self.finish else ""

    @property
    def unsupported(self) -> tuple[str, ...]:
        """The sentences that, by the verifier's verdict, are not entailed by what they cite; none without a verifier."""
        return tuple(self.text[s.start:s.end] for s in self.sentences if s.entailed is False)

    @property
    def uncited(self) -> tuple[str, ...]:
        """The sentences that no passage shown to the model is similar to."""
        return tuple(self.text[s.start:s.end] for s in self.sentences if not s.citations)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Answer:
        with _reading(cls, data):
            return cls(
                data["text"], tuple(Citation.from_dict(c) for c in data["citations"]),
                Context.from_dict(data["context"]) if data["context"] else None, Usage.from_dict(data["usage"]),
                tuple(Sentence(s["start"], s["end"], tuple(s["citations"]), s["probability"]) for s in data["sentences"]),
                data["verifier"], data["finish"],
            )

    def _repr_html_(self) -> str:
        from .display import answer_html  # views are built only when a notebook asks

        return answer_html(self)
