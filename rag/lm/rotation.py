"""Rotary positions whose angles depend on how long the whole prompt is (*longrope*: Phi-3-mini-128k, Phi-4-mini).

Such a model turns queries and keys by one set of angles in prompts up to ``boundary`` positions, and by another in
longer ones. transformers reads the length off the largest position of each forward pass, so that the chunks of one
prompt would be turned differently. Here each pass is told how long the prompt is that it is part of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_BY_LENGTH = "longrope"
_BOUNDARY = "original_max_position_embeddings"


class Rotation:
    """The rotary positions of ``model``; one pass at a time. ``boundary`` is None where angles do not depend on the
    length."""

    def __init__(self, model: Any) -> None:
        self._length = 0
        modules = [module for module in model.modules() if _BY_LENGTH in _types(module)]
        for module in modules:
            module.register_forward_pre_hook(self._with_last_position, with_kwargs=True)
            module.register_forward_hook(self._without_last_position)
        self.boundary: int | None = min((_boundary(module.config.rope_parameters) for module in modules), default=None)

    @contextmanager
    def of(self, length: int) -> Iterator[None]:
        """Passes inside are part of a prompt of ``length`` positions."""
        self._length = length
        try:
            yield
        finally:
            self._length = 0

    def differ(self, one: int, other: int) -> bool:
        """Whether prompts of these lengths are turned differently."""
        return self.boundary is not None and (one > self.boundary) != (other > self.boundary)

    def _with_last_position(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...],
                                                                                                       dict[str, Any]]:
        if "position_ids" in kwargs:
            return args, kwargs | {"position_ids": self._extended(kwargs["position_ids"])}
        return (args[0], self._extended(args[1]), *args[2:]), kwargs

    def _extended(self, positions: Any) -> Any:
        import torch

        last = positions.max(dim=-1, keepdim=True).values.clamp(min=self._length - 1)
        return torch.cat([positions, last], dim=-1)

    def _without_last_position(self, module: Any, args: tuple[Any, ...], output: Any) -> Any:
        return tuple(turn[:, :-1] for turn in output)


def _types(module: Any) -> tuple[Any, ...]:
    """The rotary module's kinds, one or one for each type of layer; of other modules nothing."""
    found = getattr(module, "rope_type", None)
    return tuple(found.values()) if isinstance(found, dict) else (found,)


def _boundary(parameters: dict[str, Any]) -> int:
    if _BOUNDARY in parameters:
        return int(parameters[_BOUNDARY])
    return min(int(own[_BOUNDARY]) for own in parameters.values() if isinstance(own, dict) and _BOUNDARY in own)
