"""Types of settings that stages of several folders share; a stage's constructor is checked against them (see
``stage``)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""How many: at least one."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole."""
