"""The head of a saved context; `prefixkv.chat.context` says what its fields mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from prefixkv.schemas.field import MOST_LAYERS, Bytes, Name, NotNegative, Schema, Shares, Text, Tokens
from prefixkv.schemas.model import ModelSchema

StateName = Annotated[str, Field(pattern=r"^[0-9]{1,4}[.](conv|recurrent)_states[.][0-9]{1,3}$")]


class BudgetTextSchema(Schema):
    """A budget as it was given."""

    text: Name
    kind: Literal["fraction", "bytes", "tokens"]
    amount: Annotated[str, Field(pattern=r"^[0-9]{1,40}(/[0-9]{1,40})?$")]


class AnswerSchema(Schema):
    """An answer and what it cost."""

    text: Text
    prompt_tokens: Tokens
    new_tokens: Tokens
    prefill_seconds: NotNegative
    decode_seconds: NotNegative
    finish_reason: Literal["stop", "length", "interrupted"]


class TurnSchema(Schema):
    """A question, and how many pictures came with it."""

    question: Text
    pictures: Tokens
    answer: AnswerSchema
    layout: Annotated[list[Text | None], Field(max_length=100_000, fail_fast=True)] | None = None


class PictureSchema(Schema):
    """What the list of contexts says of a picture."""

    name: Name
    sha256: Name
    width: Tokens
    height: Tokens


class ContextLayerSchema(Schema):
    """Counts of one layer."""

    seen_tokens: Tokens
    anchor_seen: Tokens
    anchor_kept: Tokens


class ContextSchema(Schema):
    """The whole head."""

    name: Name
    model: ModelSchema
    weights_sha256: Name | None = None
    method: Name
    codec: Name = "auto"
    budget: BudgetTextSchema
    keep_fractions: Shares | None
    system: Text
    template_args: dict[Name, Any] = Field(default_factory=dict, max_length=100)
    turns: Annotated[list[TurnSchema], Field(max_length=1_000_000, fail_fast=True)]
    pictures: Annotated[list[PictureSchema], Field(max_length=100_000, fail_fast=True)]
    layers: Annotated[list[ContextLayerSchema], Field(max_length=MOST_LAYERS, fail_fast=True)]
    windows: dict[Annotated[str, Field(pattern=r"^[0-9]{1,4}$")], Tokens]
    states: list[StateName] = Field(default_factory=list, max_length=64 * MOST_LAYERS)
    limits: Annotated[list[Tokens], Field(max_length=MOST_LAYERS, fail_fast=True)]
    bits: Annotated[int, Field(ge=1, le=99)] | None
    look_ahead_sha256: Name | None = None
    pictures_read: Tokens
    kept_bytes: Bytes
    full_bytes: Bytes
