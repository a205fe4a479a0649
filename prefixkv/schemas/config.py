"""The file of a configuration; `prefixkv.profiles.config` says what its numbers mean."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from prefixkv.schemas.field import MOST_BYTES, Forgotten, Name, Schema, Share, Shares, SomeTokens, Tokens
from prefixkv.schemas.model import ModelSchema


class MethodSchema(Schema):
    """How the shares were found, and what is to be done with them."""

    name: Name
    allocation: Literal["prefix", "mixed", "uniform", "release"]


class BudgetSchema(Schema):
    """What was asked for, and what it came to."""

    requested: Name
    kept_tokens_fraction: Share = Field(validation_alias=AliasChoices("kept_tokens_fraction", "keep_fraction"))
    context_tokens: SomeTokens
    batch: SomeTokens
    bytes: int = Field(ge=1, le=MOST_BYTES)


class SourceSchema(Schema):
    """The profile that the shares were searched from."""

    sha256: Name | None = None
    samples: Tokens | None = None
    source: Name


class ConfigSchema(Schema):
    """The whole file."""

    format: Literal["prefixkv-config"]
    version: Literal[1, 2, 3]
    name: Name
    model: ModelSchema
    method: MethodSchema
    codec: Name = "auto"
    budget: BudgetSchema
    keep_fractions: Shares
    profile: SourceSchema | None = None
    created_by: Name = "unknown"
    release_forgotten: Forgotten | None = None

    @model_validator(mode="after")
    def _a_share_for_each_layer(self) -> ConfigSchema:
        for name, values in (("keep_fractions", self.keep_fractions), ("release_forgotten", self.release_forgotten)):
            if values is not None and len(values) != self.model.layers:
                raise ValueError(f"{name} are {len(values)} for a model of {self.model.layers} layers")
        return self
