"""What a stage found beside the scores: the tokens that carried them, matches, reasons, graph paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from ..errors import ConfigError
from ..tables import table


@runtime_checkable
class Evidence(Protocol):
    """Rides on a ``Ranking`` under its name, by rows of the ranking's store: it stays right however the hits are cut
    and ordered.

    It is in no file and no cache unless ``to_dict`` gives it. What does so is listed in the table ``regard.evidence``
    under the name it has on rankings, with a class method ``from_dict``.
    """

    def to_dict(self) -> dict[str, Any] | None:
        """Plain JSON; None for what lives in memory alone."""


@runtime_checkable
class TokenEvidence(Evidence, Protocol):
    """Evidence named ``attention``: each passage's tokens as a model read them, with the attention mass that each
    received."""

    @property
    def model(self) -> str: ...

    def pieces(self, row: int) -> list[tuple[str, float]]:
        """The passage's tokens as text, marker first, each with its mass; empty for a row that was not in the
        prompt."""


def evidence_to_dict(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """What of ``evidence`` can go to JSON."""
    return {name: data for name, held in evidence.items() if (data := held.to_dict()) is not None}


def evidence_from_dict(data: Mapping[str, Any]) -> dict[str, Evidence]:
    """Raises ``ConfigError`` for a name that nothing is registered under."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"evidence is a {type(data).__name__}", where="Ranking.from_dict",
                          hint="give what to_dict gave")
    return {name: table("regard.evidence")[name].from_dict(held) for name, held in data.items()}
