"""The model that a file is for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prefixkv.schemas.field import MOST_LAYERS, MOST_TOKENS, Name, Schema

Places = Annotated[list[Annotated[int, Field(ge=0, lt=2 * MOST_LAYERS)]], Field(max_length=MOST_LAYERS)]


class ModelSchema(Schema):
    """A model's name and the shape of its KV cache; see `ModelIdentity` and `KVGeometry`."""

    id: Name
    revision: Name | None = None
    layers: int = Field(ge=1, le=MOST_LAYERS)
    kv_heads: int = Field(ge=1, le=65_536)
    head_dim: int = Field(ge=1, le=65_536)
    dtype: Literal["float32", "bfloat16", "float16"]
    window_layers: Places = Field(default_factory=list)
    window_tokens: int = Field(default=0, ge=0, le=MOST_TOKENS)
    fingerprint: Name | None = None

    @model_validator(mode="after")
    def _window_layers_are_layers(self) -> ModelSchema:
        places = self.window_layers
        if places != sorted(set(places)) or any(place >= self.layers + len(places) for place in places):
            raise ValueError(
                f"window_layers are not rising places among {self.layers + len(places)} layers, the first being 0"
            )
        return self
