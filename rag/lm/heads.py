"""Head sets: how well each attention head of a model tells relevant passages apart, measured once, and the best of
them.

A head set is a JSON file that ``regard heads detect`` writes (``rerankers.attention.detect``): the model with its
weights' hash, the recipe, and for each measure a number and a bootstrap interval for every (layer, head). Sets for the
embedded models come with Regard. Heads that others published are read from their own files (:func:`published_heads`).
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from ..errors import ConfigError
from ..files import local_path, write_text
from ..models import EMBEDDED, resolve, weights_hash
from ..plain import MOST_JSON, parse_json, parse_yaml, read_text
from .info import describe

Heads = Sequence[tuple[int, int]] | None
Measure = Literal["ndcg", "qrhead_ndcg", "qrhead_score", "core_score"]
"""What is measured of a head: see ``rerankers.attention.detect``."""

AUTO, SHIPPED = "auto", "shipped"

_FORMAT = "regard-heads/1"
_FOLDER = Path(__file__).parent / "head_sets"
_LISTED = re.compile(r"\s*\d+-\d+(\s*,\s*\d+-\d+)*\s*")
_CONFIG_KEY, _ALL_HEADS = "attn_head_set", "full_heads"
"""QRHead's configuration files: where the heads stand, and the word for all of them."""


@dataclass(frozen=True, slots=True)
class HeadSet:
    """``measures`` and ``intervals``: for each measure a table [layers][heads] of its mean over the queries, and of its
    95 % interval."""

    model: str
    weights: str
    recipe: dict[str, Any]
    measures: dict[Measure, list[list[float]]]
    intervals: dict[Measure, list[list[tuple[float, float]]]]

    def top(self, measure: Measure, n: int) -> list[tuple[int, int]]:
        """The ``n`` best (layer, head) pairs, best first; equal ones in the order of the model. Raises ``ConfigError``
        for a measure that was not taken."""
        if measure not in self.measures:
            raise ConfigError(f"the heads of {self.model!r} were not measured by {measure}, only by "
                              f"{', '.join(self.measures)}",
                              where="heads", hint="measure them again: regard heads detect --help")
        table = np.asarray(self.measures[measure])
        best = np.argsort(-table, axis=None, kind="stable")[:n]
        return [(int(i) // table.shape[1], int(i) % table.shape[1]) for i in best]

    def expect_for(self, lm: str, layers: int, heads: int) -> None:
        """Raise ``ConfigError`` unless the tables are of a model of so many layers and heads."""
        for measure, table in self.measures.items():
            shape = np.asarray(table).shape
            if shape != (layers, heads):
                raise ConfigError(f"the head set's {measure} is of {shape[0]} layers of {shape[1]} heads, {lm!r} has "
                                  f"{layers} of {heads}",
                                  where="heads", hint=f"measure one for it: regard heads detect --model {lm} ... -o "
                                                      f"heads.json")

    def _expect_numbers(self) -> None:
        """Raise ``ValueError`` unless there are tables, of one shape, of finite numbers, each with its intervals."""
        if not isinstance(self.model, str) or not isinstance(self.weights, str) or not isinstance(self.recipe, dict):
            raise ValueError("no model, weights or recipe")
        if not isinstance(self.measures, dict) or not isinstance(self.intervals, dict) or not self.measures:
            raise ValueError("no measure in it")
        shapes = {_finite(table, 2, f"measures.{name}") for name, table in self.measures.items()}
        shapes |= {_finite(table, 3, f"intervals.{name}")[:2] for name, table in self.intervals.items()}
        if len(shapes) != 1 or set(self.intervals) != set(self.measures):
            raise ValueError("its tables are of different models")

    def save(self, path: Path) -> None:
        """Raises ``StorageError`` where the file cannot be written."""
        write_text(path, json.dumps({"format": _FORMAT, **asdict(self)}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ``ConfigError`` for a file that is no head set."""
        try:
            data = parse_json(read_text(path, MOST_JSON))
            if data.pop("format") != _FORMAT:
                raise ValueError("another format")
            found = cls(**data)
            found._expect_numbers()
            return found
        except (ConfigError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _no_heads(path, getattr(error, "what", str(error))) from None


def published_heads(source: str | Path) -> Heads:
    """(layer, head) pairs that the authors of a method published, in their order, best first; None: all heads.

    ``source`` is the text ``"14-22,13-16"`` (layer-head pairs, as QRHead's command line and configuration have them) or
    a file:
    - of that text, or a QRHead configuration (YAML) with it as ``attn_head_set``;
    - JSON ``{"14-22": .62, ...}`` (CoRe's: a score for every head, or a list of scores whose mean counts), best first
      by score;
    - JSON ``[["14-22", .62], ...]`` (QRHead's detection), best first by score.

    Raises ``ConfigError`` for anything else.
    """
    if isinstance(source, str) and _LISTED.fullmatch(source):
        return _listed(source)
    try:
        path = local_path(source, "heads")
        text = read_text(path, MOST_JSON)
    except ConfigError as error:
        raise _no_heads(source, error.what) from None
    try:
        return _heads_of(_parsed(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise _no_heads(path, str(error)) from None


def chosen(heads: str, lm: str, measure: Measure, top: int, mask: str) -> Heads:
    """The ``top`` heads for model ``lm`` from the file ``heads``, or ``"shipped"``, from the set that comes with it.

    The file is a head set, whose best heads by ``measure`` are taken, or one that :func:`published_heads` reads (as is
    a text like ``"14-22,13-16"``), whose first are. ``"auto"`` is the shipped set, and None (all heads) where there is
    none. Raises ``ConfigError`` when there is none otherwise, it was measured on another model or by other measures, or
    names heads that the model has not.
    """
    path = _FOLDER / f"{lm}-{mask}.json" if heads in (AUTO, SHIPPED) else Path(heads)
    if heads in (AUTO, SHIPPED) and not (lm in EMBEDDED and path.exists()):
        if heads == AUTO:
            return None
        raise ConfigError(f"no head set comes with Regard for model {lm!r}", where="heads",
                          hint=f"measure one: regard heads detect --model {lm} --mask {mask} ... -o heads.json")
    if _LISTED.fullmatch(heads):
        return _expect_in(lm, _listed(heads)[:top])
    found = _loaded(path, _changed(path))
    if not isinstance(found, HeadSet):
        return None if found is None else _expect_in(lm, found[:top])
    if found.weights != weights_hash(resolve(lm)):
        raise ConfigError(f"the head set {path.name} was measured on {found.model!r}, and not on these weights of "
                          f"{lm!r}", where="heads",
                          hint=f"measure one for it: regard heads detect --model {lm} ... -o heads.json")
    info = describe(lm)
    found.expect_for(lm, info.layers, info.heads)
    return found.top(measure, top)


def deepest(heads: Heads, layers: int) -> int:
    """The deepest layer that ``heads`` need in a model of ``layers``."""
    return layers - 1 if heads is None else max(layer for layer, _ in heads)


def _finite(table: Any, dimensions: int, name: str) -> tuple[int, ...]:
    """The table's shape. Raises ``ValueError`` unless it is full of finite numbers."""
    array = np.asarray(table)
    if array.ndim != dimensions or array.size == 0 or array.dtype.kind not in "if" or not np.isfinite(array).all():
        raise ValueError(f"{name} is no table of finite numbers")
    return array.shape


def _changed(path: Path) -> int:
    """When it was changed; 0 where no file can be of that name."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


@functools.lru_cache(maxsize=16)
def _loaded(path: Path, changed: int) -> HeadSet | Heads:
    """A head set, or the heads of a published file."""
    try:
        data = parse_json(read_text(path, MOST_JSON))
    except (ConfigError, ValueError):
        return published_heads(path)
    return HeadSet.load(path) if isinstance(data, dict) and "format" in data else published_heads(path)


def _parsed(text: str) -> Any:
    """JSON, or else YAML, of which the plain text of heads is a case."""
    try:
        return parse_json(text)
    except ValueError as error:
        why = str(error)
    try:
        return parse_yaml(text, "heads")
    except ConfigError:
        raise ValueError(f"neither JSON ({why}) nor YAML") from None


def _heads_of(data: Any) -> Heads:
    if isinstance(data, Mapping) and _CONFIG_KEY in data:
        data = data[_CONFIG_KEY]
    if data == _ALL_HEADS:
        return None
    if isinstance(data, str):
        return _listed(data)
    scores = dict(data)
    if not scores:
        raise ValueError("no heads in it")
    means = {pair: float(np.mean(score)) for pair, score in scores.items()}
    if not all(map(math.isfinite, means.values())):
        raise ValueError("a score that is no number")
    return [_pair(text) for text in sorted(means, key=lambda pair: -means[pair])]


def _listed(text: str) -> list[tuple[int, int]]:
    return [_pair(pair) for pair in text.split(",")]


def _pair(text: str) -> tuple[int, int]:
    if not isinstance(text, str) or not re.fullmatch(r"\s*\d+-\d+\s*", text):
        raise ValueError(f"{text!r} is no layer-head pair like 14-22")
    layer, head = text.split("-")
    return int(layer), int(head)


def _expect_in(lm: str, heads: Sequence[tuple[int, int]]) -> Heads:
    info = describe(lm)
    missing = [f"{layer}-{head}" for layer, head in heads if layer >= info.layers or head >= info.heads]
    if missing:
        raise ConfigError(f"model {lm!r} has no heads {', '.join(missing[:5])}: it has {info.layers} layers of "
                          f"{info.heads} heads, from 0",
                          where="heads", hint="take the heads that were found in this model")
    return heads


def _no_heads(path: Any, why: str) -> ConfigError:
    return ConfigError(f"there is no head set in {str(path)!r}: {why}", where="heads",
                       hint="make one: regard heads detect --help; or give published heads, like 14-22,13-16")
