"""Names of views: ``bm25``, ``faiss:flat``, ``faiss:hnsw,m=32``, ``faiss:ivf,lists=256,probes=16``, each ``@encoder`` if need be; and
``attention:MODEL``, with the passages' keys and values by a language model, ``attention:smollm2,bits=8,last=15``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...rag.errors import ConfigError
from ...rag.lm import describe
from ...rag.lm.heads import AUTO, chosen, deepest

ATTENTION = "attention"
_PARAMETERS: dict[str, dict[str, float]] = {
    "bm25": {"k1": 0.9, "b": 0.4},
    "faiss:flat": {},
    "faiss:hnsw": {"m": 32, "ef_construction": 200, "ef_search": 128},
    "faiss:ivf": {"lists": 0, "probes": 16},
    ATTENTION: {"bits": 16, "last": -1},  # -1 stands for the deepest layer that reranking with the model looks at
}
_FORMS = ("bm25[,k1=0.9,b=0.4]; faiss:flat; faiss:hnsw[,m=32,ef_construction=200,ef_search=128]; faiss:ivf[,lists=256,probes=16]; "
          "attention:MODEL[,bits=16 or 8 or 32][,last=LAYER or heads=shipped or heads=FILE.json]")
_BITS = (8, 16, 32)
_HEADS = 8
"""``heads=`` in a view's name means the best this many of a head set, as rerankers take by default."""


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """``kind`` with its parameters (all of them, defaults filled in) and whose output it holds: a dense encoder's, for ``attention`` a
    language model's, empty for BM25."""

    kind: str
    encoder: str = ""
    parameters: dict[str, float] = field(default_factory=dict)

    @property
    def dense(self) -> bool:
        return self.kind.startswith("faiss:")

    @property
    def slug(self) -> str:
        """A folder name: one view of a kind for each encoder or model."""
        return self.kind.replace(":", "-") + (f"-{_folder_name(self.encoder)}" if self.encoder else "")

    @property
    def layers(self) -> int:
        """How many of its model's layers an ``attention`` view holds, from the lowest."""
        return int(self.parameters["last"]) + 1

    def __str__(self) -> str:
        changed = [f"{k}={v:g}" for k, v in self.parameters.items() if v != _PARAMETERS[self.kind][k]]
        if self.kind == ATTENTION:
            return ",".join([f"{self.kind}:{self.encoder}", *changed])
        return ",".join([self.kind, *changed]) + (f"@{self.encoder}" if self.encoder else "")


def is_spec(data: Any) -> bool:
    """Whether ``data`` has the form of a spec as descriptions hold it: of a known kind, with all of its parameters."""
    if not isinstance(data, Mapping) or set(data) != {"kind", "encoder", "parameters"} or not isinstance(data["encoder"], str):
        return False
    kind, parameters = data["kind"], data["parameters"]
    return (isinstance(kind, str) and kind in _PARAMETERS and isinstance(parameters, Mapping) and set(parameters) == set(_PARAMETERS[kind])
            and all(isinstance(value, int | float) for value in parameters.values()))


def parse_view(text: str, default_encoder: str = "") -> ViewSpec:
    """Read a view's name; a dense view without ``@encoder`` takes ``default_encoder``.

    Raises ``ConfigError``, and for an ``attention`` view what ``rag.lm.describe`` raises: its model must be there.
    """
    if text.partition(":")[0] == ATTENTION:
        return _parse_attention(text)
    body, _, encoder = text.partition("@")
    kind, *settings = body.split(",")
    if kind not in _PARAMETERS:
        raise ConfigError(f"there is no view {kind!r}", where=f"view {text!r}", hint=f"views: {_FORMS}")
    parameters = dict(_PARAMETERS[kind])
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            if name not in parameters:
                raise ValueError
            parameters[name] = float(value)
        except ValueError:
            raise _no_setting(setting, kind, text) from None
    dense = kind.startswith("faiss:")
    if dense and not (encoder or default_encoder):
        raise ConfigError(f"{kind} needs a dense encoder, and this index has none", where=f"view {text!r}",
                          hint="name one: regard index ... --encoder minilm")
    return ViewSpec(kind, (encoder or default_encoder) if dense else "", parameters)


def _parse_attention(text: str) -> ViewSpec:
    model, *settings = text.partition(":")[2].split(",")
    if not model:
        raise ConfigError("an attention view needs a language model", where=f"view {text!r}", hint="name one: attention:smollm2")
    layers = describe(model).layers
    parameters = dict(_PARAMETERS[ATTENTION])
    parameters["last"] = _deepest_head(AUTO, model, layers)
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "bits" and value in map(str, _BITS):
            parameters["bits"] = int(value)
        elif name == "last" and value.isdecimal() and int(value) < layers:
            parameters["last"] = int(value)
        elif name == "heads" and value:
            parameters["last"] = _deepest_head(value, model, layers)
        else:
            raise _no_setting(setting, f"{ATTENTION}:{model} (layers 0 to {layers - 1})", text)
    return ViewSpec(ATTENTION, model, parameters)


def _deepest_head(heads: str, model: str, layers: int) -> int:
    """The deepest layer that reranking with these heads (a file's, the shipped ones; "auto" as rerankers do) looks at."""
    return deepest(chosen(heads, model, "ndcg", _HEADS, "block"), layers)


def _no_setting(setting: str, kind: str, text: str) -> ConfigError:
    return ConfigError(f"{setting!r} is no setting of {kind}", where=f"view {text!r}", hint=f"views: {_FORMS}")


def _folder_name(name: str) -> str:
    """``name`` where it can be a folder's; else its end with a hash, so that two models never share a folder."""
    if re.fullmatch(r"[\w-][\w.-]{0,99}", name, re.ASCII):
        return name
    end = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[-40:].strip(".-")
    return f"{end}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
