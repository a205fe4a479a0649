"""The model that a file is for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prefixkv.schemas.field import MOST_LAYERS, MOST_TOKENS, Name, Schema

Places = Annotated[list[Annotated[int, Field(ge=0, lt=2 * MOST_LAYERS)]], Field(max_length=MOST_LAYERS)]

Size = Annotated[int, Field(ge=1, le=65_536)]


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
    value_dim: int | None = Field(default=None, ge=1, le=65_536)
    window_shape: Annotated[list[Size], Field(min_length=3, max_length=3)] | None = None
    is_latent: bool = False
    has_chunks: bool = False
    state_layers: Places = Field(default_factory=list)
    state_bytes: int | None = Field(default=0, ge=0)
    states_each: int = Field(default=1, ge=1, le=64)
    hybrid_layers: Places = Field(default_factory=list)
    bare_layers: Places = Field(default_factory=list)
    fingerprint: Name | None = None

    @model_validator(mode="after")
    def _places_are_of_layers(self) -> ModelSchema:
        pure = set(self.state_layers) - set(self.hybrid_layers)
        count = self.layers + len({*self.window_layers, *self.bare_layers, *pure})
        for name in ("window_layers", "state_layers", "hybrid_layers", "bare_layers"):
            places = getattr(self, name)
            if places != sorted(set(places)) or any(place >= count for place in places):
                raise ValueError(f"{name} are not rising places among {count} layers, the first being 0")
        return self
