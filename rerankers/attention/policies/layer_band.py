"""Selective-ICR: a band of layers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ....rag.errors import ConfigError
from ....rag.lm.heads import Heads
from ....rag.parts import Card
from .listwise import Listwise


class LayerBand(Listwise):
    """Selective-ICR: ICR by the middle layers.

    ICR's rows, calibration, filter, mask, positions and order; heads: all of the middle layers, from the share
    ``start`` of the depth up to ``stop``.
    """

    card = Card("Chen et al.", 2026, arxiv="2602.22591",
                note="after the paper's text, their code was not compared; the shares are ours, for all models")

    start: Annotated[float, Field(ge=0, lt=1)] = 0.4
    stop: Annotated[float, Field(gt=0, le=1)] = 0.7

    def heads_in(self, lm: str) -> Heads:
        from ....rag.lm import describe

        info = describe(lm)
        layers = range(round(self.start * info.layers), round(self.stop * info.layers))
        if not layers:
            raise ConfigError(f"no layer of {info.layers} lies between {self.start} and {self.stop}", where="LayerBand",
                              hint="set stop further above start")
        return [(layer, head) for layer in layers for head in range(info.heads)]
