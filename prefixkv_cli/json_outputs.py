"""What `--json` of each command prints: the classes from which docs/schemas is made. Commands do not load them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefixkv.cache.usage import CacheUsage
from prefixkv.schemas.config import ConfigSchema
from prefixkv_cli.answer_log.store import LoggedAnswer


class Part(BaseModel):
    """An object in an output: it has these fields and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Output(Part):
    """What a command prints: one object that says what it is."""

    version: Literal[1]
    warnings: list[str] = Field(default_factory=list)


class Seconds(Part):
    """Time, in seconds."""

    load: float
    prefill: float
    decode: float


class AnswerOutput(Output):
    """`chat`: an answer, and what the cache holds after it."""

    format: Literal["prefixkv-answer"]
    answer: str
    model: str
    method: str
    codec: str
    budget: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: str
    kv: CacheUsage
    seconds: Seconds
    tokens_per_second: float | None
    peak_device_bytes: int


class SavedOutput(Output):
    """`save`: the context that was written."""

    format: Literal["prefixkv-saved"]
    name: str
    path: str
    file_bytes: int
    answer: str | None
    codec: str
    bits: float
    kept_tokens_fraction: float
    bytes_fraction: float
    kept_bytes: int
    full_bytes: int


class Prefixes(Part):
    """Beginnings of lines that were read once for several."""

    read: int
    lines: int
    most_bytes: int


class BatchSpeed(Part):
    """What a batch has measured; quantiles by name, None where nothing was measured."""

    tokens: int
    seconds: float
    tokens_per_second: float | None
    first_token_seconds: dict[str, float] | None
    token_seconds: dict[str, float] | None
    prefixes: Prefixes


class BatchOutput(Output):
    """`batch`: what the whole has come to."""

    format: Literal["prefixkv-batch"]
    out: str
    answers: int
    errors: list[int]
    speed: BatchSpeed


class ListedContext(Part):
    """A saved context."""

    name: str
    model: str
    method: str
    codec: str
    budget: str
    turns: int
    pictures: int
    kept_bytes: int
    full_bytes: int
    file_bytes: int
    age_seconds: int


class ContextsOutput(Output):
    """`contexts list`."""

    format: Literal["prefixkv-contexts"]
    contexts: list[ListedContext]


class ListedConfig(Part):
    """A saved configuration."""

    name: str
    model: str
    method: str
    codec: str
    budget: str
    age_seconds: int
    source: str


class ConfigsOutput(Output):
    """`configs list`."""

    format: Literal["prefixkv-configs"]
    configs: list[ListedConfig]


class ListedProfile(Part):
    """A saved profile."""

    name: str
    model: str
    samples: int
    age_seconds: int
    source: str


class ProfilesOutput(Output):
    """`profile list`."""

    format: Literal["prefixkv-profiles"]
    profiles: list[ListedProfile]


class LayerDifference(Part):
    """A layer in two profiles; pairs are of the first and the second."""

    layer: int
    gini: tuple[float, float]
    largest_curve_distance: float
    keep_fractions: tuple[float, float]


class ProfileDifferenceOutput(Output):
    """`profile diff`."""

    format: Literal["prefixkv-profile-difference"]
    budget: str
    layers: list[LayerDifference]
    largest_keep_difference: float


class EvaluatedCell(Part):
    """A method at a budget in a codec: what its cache held, and its metrics with their intervals."""

    method: str
    budget: str
    codec: str
    shared_with_full: bool
    kept_bytes: float
    full_bytes: float
    kept_tokens_fraction: float
    bytes_fraction: float
    asked_fraction: float
    bits: float
    marks: list[str]
    metrics: dict[str, dict[str, Any]]
    kinds: dict[str, Any]


class EvaluationOutput(Output):
    """`eval`: the figures of all cells."""

    format: Literal["prefixkv-evaluation"]
    version: Literal[2]  # type: ignore[assignment]
    settings: dict[str, Any]
    samples: int
    single_token_share: float
    cells: list[EvaluatedCell]


class BenchmarkOutput(Output):
    """`bench`: the machine, and time and memory of each cell; None where there is no figure."""

    model_config = ConfigDict(extra="allow")

    format: Literal["prefixkv-benchmark"]
    model: str
    dtype: str
    copy_bytes_per_second: float
    cells: list[dict[str, str | int | float | None]]


class SearchOutput(ConfigSchema):
    """`search`: the configuration, and what it comes to."""

    full_bytes: int
    kept_tokens: list[int]


class ListedFamily(Part):
    """A family of models that works, and one model of it."""

    alias: str
    family: str
    model_types: list[str]
    example: str
    special: str
    here: bool


class ModelsOutput(Output):
    """`models`."""

    format: Literal["prefixkv-models"]
    families: list[ListedFamily]
    refused: dict[str, str]


class CacheShape(Part):
    """The shape of a model's KV cache."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    window_layers: list[int] = Field(default_factory=list)
    window_tokens: int = 0
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
    context_tokens: int | None
    weight_bytes: int | None
    picture_tokens: dict[str, int]


class QuestionOutput(Part):
    """A question about a drawn scene, with its exact answer and the turns before it."""

    kind: str
    question: str
    answer: str
    context: list[tuple[str, str]]


class SceneOutput(Output):
    """`demo-scene`."""

    format: Literal["prefixkv-scene"]
    path: str
    seed: int
    questions: list[QuestionOutput]


class LogOutput(Output):
    """`log list` and `log search`, the newest first."""

    format: Literal["prefixkv-log"]
    answers: list[LoggedAnswer]


class LoggedAnswerOutput(Output):
    """`log show`."""

    format: Literal["prefixkv-logged-answer"]
    entry: LoggedAnswer


class SettingsOutput(Output):
    """`settings show`: each setting with its value and where that is from."""

    format: Literal["prefixkv-effective-settings"]
    path: str
    settings: list[dict[str, Any]]


class EnvironmentOutput(Output):
    """`env`: versions, devices and settings."""

    model_config = ConfigDict(extra="allow")

    format: Literal["prefixkv-environment"]
    prefixkv: str
    python: str
    packages: dict[str, str | None]
    variables: dict[str, str]


OUTPUTS: dict[str, type[BaseModel]] = {
    "chat-output": AnswerOutput,
    "save-output": SavedOutput,
    "batch-output": BatchOutput,
    "contexts-output": ContextsOutput,
    "configs-output": ConfigsOutput,
    "profiles-output": ProfilesOutput,
    "profile-diff-output": ProfileDifferenceOutput,
    "eval-output": EvaluationOutput,
    "bench-output": BenchmarkOutput,
    "search-output": SearchOutput,
    "models-output": ModelsOutput,
    "info-output": ModelOutput,
    "demo-scene-output": SceneOutput,
    "log-output": LogOutput,
    "log-show-output": LoggedAnswerOutput,
    "settings-output": SettingsOutput,
    "env-output": EnvironmentOutput,
}
"""By the name of the schema's file."""
