"""A line of a file of questions; `prefixkv.batch.lines` says what its fields mean."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WrapValidator
from pydantic_core import PydanticCustomError

from prefixkv.pixels import LEAST_PIXELS
from prefixkv.schemas.field import MOST_TOKENS, Name, Schema, SomeTokens, Text, with_bytes

MOST_SOURCE = 2**26
"""Characters of a picture's source, which may be a data: address."""


def _listed(value: Any) -> Any:
    """One text as a list of one; nothing as an empty list."""
    return [value] if isinstance(value, str) else [] if value is None else value


def _said(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("empty", "Input should not be empty")
    return value


Texts = Annotated[list[Annotated[Text, Field(min_length=1)]], Field(max_length=1000, fail_fast=True)]
Source = Annotated[str, Field(min_length=1, max_length=MOST_SOURCE), WrapValidator(with_bytes)]
Sources = Annotated[list[Source], Field(max_length=10_000, fail_fast=True)]
ManyTexts = Annotated[Texts, BeforeValidator(_listed, str | list[str] | None)]
ManySources = Annotated[Sources, BeforeValidator(_listed, str | list[str] | None)]


class BatchLineSchema(Schema):
    """One question: a prompt with its pictures, or both as parts; and what it asks otherwise than the others."""

    id: Any = None
    prompt: Annotated[str, Field(max_length=2**26), BeforeValidator(_said)] | None = None
    image: ManySources = Field(default_factory=list)
    images: ManySources = Field(default_factory=list)
    parts: list[Any] | None = None
    system: Text | None = None
    stop: ManyTexts = Field(default_factory=list)
    max_new_tokens: SomeTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    template_args: dict[Name, Any] | None = None
    max_pixels: Annotated[int, Field(ge=LEAST_PIXELS, le=2**53)] | None = None
    keep_marks: bool | None = None
