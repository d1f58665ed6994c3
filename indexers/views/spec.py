"""Names of views: ``bm25``, ``faiss:flat``, ``faiss:hnsw,m=32``, ``faiss:ivf,lists=256,probes=16``, each ``@encoder`` if need be."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...rag.errors import ConfigError

_PARAMETERS: dict[str, dict[str, float]] = {
    "bm25": {"k1": 0.9, "b": 0.4},
    "faiss:flat": {},
    "faiss:hnsw": {"m": 32, "ef_construction": 200, "ef_search": 128},
    "faiss:ivf": {"lists": 0, "probes": 16},
}
_FORMS = "bm25[,k1=0.9,b=0.4]; faiss:flat; faiss:hnsw[,m=32,ef_construction=200,ef_search=128]; faiss:ivf[,lists=256,probes=16]"


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """``kind`` with its parameters (all of them, defaults filled in) and the dense encoder it holds (empty for BM25)."""

    kind: str
    encoder: str = ""
    parameters: dict[str, float] = field(default_factory=dict)

    @property
    def dense(self) -> bool:
        return self.kind.startswith("faiss:")

    @property
    def slug(self) -> str:
        """A folder name: one view of a kind for each encoder."""
        return self.kind.replace(":", "-") + (f"-{self.encoder}" if self.encoder else "")

    def __str__(self) -> str:
        changed = [f"{k}={v:g}" for k, v in self.parameters.items() if v != _PARAMETERS[self.kind][k]]
        return ",".join([self.kind, *changed]) + (f"@{self.encoder}" if self.encoder else "")


def parse_view(text: str, default_encoder: str = "") -> ViewSpec:
    """Read a view's name; a dense view without ``@encoder`` takes ``default_encoder``. Raises ``ConfigError``."""
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
            raise ConfigError(f"{setting!r} is no setting of {kind}", where=f"view {text!r}", hint=f"views: {_FORMS}") from None
    dense = kind.startswith("faiss:")
    if dense and not (encoder or default_encoder):
        raise ConfigError(f"{kind} needs a dense encoder, and this index has none", where=f"view {text!r}",
                          hint="name one: regard index ... --encoder minilm")
    return ViewSpec(kind, (encoder or default_encoder) if dense else "", parameters)
