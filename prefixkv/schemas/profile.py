"""The file of a layer profile; `prefixkv.profiles.profile` says what its numbers mean."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from prefixkv.schemas.field import MOST_LAYERS, Name, NotNegative, Schema, Sha256, Tokens
from prefixkv.schemas.model import ModelSchema


def _rises(points: list[float]) -> list[float]:
    rising = all(low <= high for low, high in pairwise(points))
    if not rising or abs(points[0]) > 1e-9 or abs(points[-1] - 1) > 1e-6:
        raise ValueError("does not rise from 0 to 1")
    return points


Curve = Annotated[list[float], Field(min_length=2, max_length=100_001, fail_fast=True), AfterValidator(_rises)]
KeptShare = Annotated[str, Field(pattern=r"^0\.[0-9]{1,4}$")]
FileBeside = Annotated[str, Field(pattern=r"^[^/\\:\x00-\x1f]{1,255}$")]


class LayerSchema(Schema):
    """One layer's curve."""

    curve: Curve
    gini: float = Field(ge=-1, le=1)
    gini_spread: NotNegative = 0.0


class SampleSchema(Schema):
    """What one sample was, as far as the file says it."""

    image_sha256: Name | None = None
    prompt_tokens: Tokens | None = None
    answer_tokens: Tokens | None = None


class LookAheadSchema(Schema):
    """The file of queries beside the profile."""

    file: FileBeside
    sha256: Sha256
    queries: Tokens


class ProfileSchema(Schema):
    """The whole file."""

    format: Literal["prefixkv-profile"]
    version: Literal[1]
    model: ModelSchema
    scorer: Name
    source: Name
    samples: Annotated[list[SampleSchema], Field(max_length=100_000, fail_fast=True)]
    layers: Annotated[list[LayerSchema], Field(min_length=1, max_length=MOST_LAYERS, fail_fast=True)]
    look_ahead: LookAheadSchema | None = None
    rounding_losses: dict[Literal["84", "4", "42", "2"], NotNegative] = Field(default_factory=dict)
    eviction_losses: Annotated[dict[KeptShare, NotNegative], Field(max_length=100)] = Field(default_factory=dict)
    mixed_losses: Annotated[dict[KeptShare, NotNegative], Field(max_length=100)] = Field(default_factory=dict)
    created_by: Name

    @model_validator(mode="after")
    def _a_curve_for_each_layer(self) -> ProfileSchema:
        if len(self.layers) != self.model.layers:
            raise ValueError(f"there are {len(self.layers)} curves for a model of {self.model.layers} layers")
        return self
