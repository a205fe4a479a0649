"""What `models`, `info`, `demo-scene` and `env` print with `--json`."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from prefixkv_cli.json_outputs.part import Output, Part


class ListedFamily(Part):
    """A family of models that works, and one model of it."""

    alias: str
    family: str
    model_types: list[str]
    example: str
    special: str
    here: bool


class ListedType(Part):
    """What a type of model did that transformers lists, as a small random model."""

    pictures: bool
    outcome: Literal["runs", "refused", "stock fails", "fails"]
    reason: str


class ListedTypes(Part):
    """All types, by transformers' names."""

    transformers: str
    types: dict[str, ListedType]


class ModelsOutput(Output):
    """`models`."""

    format: Literal["prefixkv-models"]
    families: list[ListedFamily]
    refused: dict[str, str]
    tested: ListedTypes | None = None


class CacheShape(Part):
    """The shape of a model's KV cache."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    window_layers: list[int] = Field(default_factory=list)
    window_tokens: int = 0
    value_dim: int | None = None
    window_shape: tuple[int, int, int] | None = None
    is_latent: bool = False
    has_chunks: bool = False
    state_layers: list[int] = Field(default_factory=list)
    state_bytes: int | None = 0
    states_each: int = 1
    hybrid_layers: list[int] = Field(default_factory=list)
    bare_layers: list[int] = Field(default_factory=list)
    query_heads: int | None


class ModelOutput(Output):
    """`info`: what is known of a model before its weights are loaded."""

    format: Literal["prefixkv-model"]
    model: str
    revision: str | None
    model_type: str | None
    family: str | None
    kv: CacheShape
    entry_bytes: int
    token_bytes: int
    window_bytes: int
    state_bytes: int | None
    context_tokens: int | None
    weight_bytes: int | None
    picture_tokens: dict[str, int]


class QuestionOutput(Part):
    """A question about a drawn picture, with its exact answer and the turns before it."""

    kind: str
    question: str
    answer: str
    context: list[tuple[str, str]]


class SceneOutput(Output):
    """`demo-scene`."""

    format: Literal["prefixkv-scene"]
    path: str
    kind: str
    seed: int
    questions: list[QuestionOutput]


class EnvironmentOutput(Output):
    """`env`: versions, devices and settings."""

    model_config = ConfigDict(extra="allow")

    format: Literal["prefixkv-environment"]
    prefixkv: str
    python: str
    packages: dict[str, str | None]
    variables: dict[str, str]
