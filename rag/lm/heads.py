"""Head sets: how well each attention head of a model tells relevant passages apart, measured once, and the best of them.

A head set is a JSON file that ``regard heads detect`` writes (``rerankers.detect``): the model with its weights' hash, the recipe, and
for each measure a number and a bootstrap interval for every (layer, head). Sets for the embedded models come with Regard.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from ..errors import ConfigError
from ..models import EMBEDDED, resolve, weights_hash

Heads = Sequence[tuple[int, int]] | None
Measure = Literal["ndcg", "qr_score", "contrastive"]
AUTO, SHIPPED = "auto", "shipped"

_FORMAT = "regard-heads/1"
_FOLDER = Path(__file__).parent / "head_sets"


@dataclass(frozen=True, slots=True)
class HeadSet:
    """``measures`` and ``intervals``: for each measure a table [layers][heads] of its mean over the queries, and of its 95 % interval."""

    model: str
    weights: str
    recipe: dict[str, Any]
    measures: dict[Measure, list[list[float]]]
    intervals: dict[Measure, list[list[tuple[float, float]]]]

    def top(self, measure: Measure, n: int) -> list[tuple[int, int]]:
        """The ``n`` best (layer, head) pairs, best first; equal ones in the order of the model."""
        table = np.asarray(self.measures[measure])
        best = np.argsort(-table, axis=None, kind="stable")[:n]
        return [(int(i) // table.shape[1], int(i) % table.shape[1]) for i in best]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"format": _FORMAT, **asdict(self)}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ``ConfigError`` for a file that is no head set."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != _FORMAT or set(data["measures"]) != set(get_args(Measure)):
                raise ValueError("another format")
            return cls(**data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"there is no head set in {str(path)!r}: {error}", where="heads",
                              hint="make one: regard heads detect --help") from None


def chosen(heads: str, lm: str, measure: Measure, top: int, mask: str) -> Heads:
    """The ``top`` heads for model ``lm`` from the file ``heads``, or ``"shipped"``, from the set that comes with it.

    ``"auto"`` is the shipped set, and None (all heads) where there is none. Raises ``ConfigError`` when there is none otherwise, or it was
    measured on another model.
    """
    path = _FOLDER / f"{lm}-{mask}.json" if heads in (AUTO, SHIPPED) else Path(heads)
    if heads in (AUTO, SHIPPED) and not (lm in EMBEDDED and path.exists()):
        if heads == AUTO:
            return None
        raise ConfigError(f"no head set comes with Regard for model {lm!r}", where="heads",
                          hint=f"measure one: regard heads detect --model {lm} --mask {mask} ... -o heads.json")
    found = _loaded(path, path.stat().st_mtime_ns if path.exists() else 0)
    if found.weights != weights_hash(resolve(lm)):
        raise ConfigError(f"the head set {path.name} was measured on {found.model!r}, and not on these weights of {lm!r}", where="heads",
                          hint=f"measure one for it: regard heads detect --model {lm} ... -o heads.json")
    return found.top(measure, top)


def deepest(heads: Heads, layers: int) -> int:
    """The deepest layer that ``heads`` need in a model of ``layers``."""
    return layers - 1 if heads is None else max(layer for layer, _ in heads)


@functools.lru_cache(maxsize=16)
def _loaded(path: Path, changed: int) -> HeadSet:
    return HeadSet.load(path)
