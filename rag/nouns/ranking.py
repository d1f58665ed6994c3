"""One query's ranked passages, columnar: handing them on copies nothing, and text is fetched only when somebody
asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, StageError
from ..tables import html, table
from .evidence import Evidence, evidence_from_dict, evidence_to_dict
from .frames import Figure, data_frame
from .plain import PlainNoun, parsed
from .query import read_only
from .spaces import ScoreSpace, expect_space
from .store import Opener, PassageStore, Rows, store_from_dict, store_to_dict
from .text import Passage

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Touch(PlainNoun):
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", read_only(self.ranks))
        object.__setattr__(self, "scores", read_only(self.scores))

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
    Its arrays cannot be written to. Make one with :meth:`ranked`; derive one with :meth:`rescore`, :meth:`take` or
    :meth:`top`. Raises ``StageError`` for a score space that is not registered.
    """

    rows: Rows
    scores: Scores
    space: ScoreSpace
    store: PassageStore
    steps: tuple[Step, ...] = ()
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    """What stages found beside the scores, by name; in no file and no cache unless it can go to JSON."""

    def __post_init__(self) -> None:
        expect_space(self.space)
        object.__setattr__(self, "rows", read_only(self.rows))
        object.__setattr__(self, "scores", read_only(self.scores))

    @classmethod
    def ranked(
        cls, rows: Sequence[int] | Rows, scores: Sequence[float] | Scores, space: ScoreSpace, store: PassageStore, *,
        history: tuple[Step, ...] = (),
    ) -> Ranking:
        """Sort by score, best first; equal scores keep the order they came in. ``history`` is aligned with ``rows``;
        the executor adds the stage that made it."""
        try:
            row_array = np.asarray(rows, dtype=np.int64)
            score_array = np.asarray(scores, dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise StageError(f"rows are whole numbers and scores are numbers: {error}",
                             where="Ranking.ranked") from None
        if row_array.ndim != 1 or row_array.shape != score_array.shape:
            raise StageError(f"{row_array.shape} rows but {score_array.shape} scores", where="Ranking.ranked")
        if not np.isfinite(score_array).all():
            raise StageError("a score is not a finite number", where="Ranking.ranked",
                             hint="the model gave NaN or infinity: check its dtype and its input")
        order = np.argsort(-score_array, kind="stable")
        return cls(row_array[order], score_array[order], space, store, tuple(s.take(order) for s in history))

    def rescore(self, scores: Sequence[float] | Scores, space: ScoreSpace) -> Ranking:
        """A reranker's result: new scores, aligned with this ranking's hits; equal scores keep the present order."""
        return replace(Ranking.ranked(self.rows, scores, space, self.store, history=self.steps), evidence=self.evidence)

    def marked(self, stage: str) -> Ranking:
        """This ranking with ``stage`` at the end of its history, as the one that gave it this order and these
        scores."""
        step = Step(stage, self.space, np.arange(1, len(self) + 1, dtype=np.int32), self.scores)
        return replace(self, steps=(*self.steps, step))

    def renamed(self, name: Callable[[str], str]) -> Ranking:
        """This ranking with other names for the stages in its history."""
        return replace(self, steps=tuple(replace(step, stage=name(step.stage)) for step in self.steps))

    def with_evidence(self, **evidence: Evidence) -> Ranking:
        """This ranking with more evidence, by name; it takes the place of what had the name."""
        return replace(self, evidence={**self.evidence, **evidence})

    def show_attention(self, limit: int = 10) -> Figure:
        """The first ``limit`` passages with the tokens highlighted that carried their scores: a view for notebooks,
        with ``save(path)`` for a web page.

        Raises ``StageError`` when no attention reranker made this ranking, or it came from a file or a cache.
        """
        figure: Figure = table("regard.renderers")["Attention"](self, limit)
        return figure

    def take(self, order: Sequence[int] | NDArray[np.int64]) -> Ranking:
        """The hits at positions ``order`` (from 0), in that order, with their history."""
        index = np.asarray(order, dtype=np.int64)
        return replace(self, rows=self.rows[index], scores=self.scores[index],
                       steps=tuple(s.take(index) for s in self.steps))

    def top(self, k: int) -> Ranking:
        """The first ``k`` hits (this ranking itself when it has no more). Raises ``ConfigError`` for a ``k`` below
        1."""
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
                Touch(step.stage, int(step.ranks[i]), float(step.scores[i]), step.space) for step in self.steps
                if step.ranks[i]
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
            isinstance(other, Ranking) and self.space == other.space
            and self.store.fingerprint == other.store.fingerprint
            and np.array_equal(self.rows, other.rows) and np.array_equal(self.scores, other.scores)
            and len(self.steps) == len(other.steps)
            and all(
                (a.stage, a.space) == (b.stage, b.space) and np.array_equal(a.ranks, b.ranks)
                and np.array_equal(a.scores, b.scores)
                for a, b in zip(self.steps, other.steps, strict=True)
            )
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON. A ranking over a store on disk names it; one over a store in memory carries its passages."""
        said = {
            "rows": self.rows.tolist(), "scores": self.scores.tolist(), "space": self.space,
            **store_to_dict(self.store, self.rows),
            "steps": [
                {"stage": s.stage, "space": s.space, "ranks": s.ranks.tolist(), "scores": s.scores.tolist()}
                for s in self.steps
            ],
        }
        kept = evidence_to_dict(self.evidence)
        return {**said, "evidence": kept} if kept else said

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], opened: PassageStore | Opener | None = None) -> Ranking:
        """``opened`` is needed when ``data`` names a store on disk: that store, or what opens stores by their URI and
        sees whether they are what they were (``regard.rag.dag.stores.open_store``), which several stores take."""
        with parsed(cls, data):
            rows = np.asarray(data["rows"], dtype=np.int64)
            scores = np.asarray(data["scores"], dtype=np.float32)
            steps = tuple(
                Step(s["stage"], s["space"], np.asarray(s["ranks"], dtype=np.int32),
                     np.asarray(s["scores"], dtype=np.float32))
                for s in data["steps"]
            )
            shapes = {rows.shape, scores.shape, *(s.ranks.shape for s in steps), *(s.scores.shape for s in steps)}
            if shapes != {(len(rows),)}:
                raise ValueError("rows, scores and ranks are not of one length")
            store = store_from_dict(data, rows.tolist(), opened)
            return cls(rows, scores, data["space"], store, steps, evidence_from_dict(data.get("evidence", {})))

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, a row a hit: rank, score, ids, title, text, span, and each stage's rank and score.

        Raises ``MissingDependency`` where pandas is not installed.
        """
        columns = ["rank", "score", "passage_id", "document_id", "title", "text", "start", "end"]
        named = [name for step in self.steps for name in (f"{step.stage}_rank", f"{step.stage}_score")]
        return data_frame(map(_hit_row, self), [*columns, *dict.fromkeys(named)])

    def __repr__(self) -> str:
        best = f", best {self.scores[0]:.4g}" if len(self) else ""
        return f"Ranking({len(self)} passages, {self.space}{best})"

    def _repr_html_(self) -> str:
        return html(self)


def _hit_row(hit: Hit) -> dict[str, Any]:
    p = hit.passage
    touched = {f"{t.stage}_{name}": value for t in hit.history
               for name, value in (("rank", t.rank), ("score", t.score))}
    return {"rank": hit.rank, "score": hit.score, "passage_id": p.id, "document_id": p.document_id, "title": p.title,
            "text": p.text, "start": p.start, "end": p.end, **touched}
