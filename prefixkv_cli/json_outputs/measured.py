"""What `eval`, `bench`, `search` and `profile diff` print with `--json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from prefixkv.schemas.config import ConfigSchema
from prefixkv_cli.json_outputs.part import Output, Part


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
