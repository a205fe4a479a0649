"""What all outputs have in common: an object has the fields that it names and no others."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """An object in an output: it has these fields and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Output(Part):
    """What a command prints: one object that says what it is."""

    version: Literal[1]
    warnings: list[str] = Field(default_factory=list)
