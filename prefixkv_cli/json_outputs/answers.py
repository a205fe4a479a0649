"""What `chat`, `save` and `batch` print with `--json`."""

from __future__ import annotations

from typing import Literal

from prefixkv.cache.usage import CacheUsage
from prefixkv_cli.json_outputs.part import Output, Part


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


class ProcessSeconds(Part):
    """What one process took until it could answer, and to answer."""

    startup_seconds: float
    seconds: float
    tokens: int


class BatchSpeed(Part):
    """What a batch has measured; quantiles by name, None where nothing was measured."""

    tokens: int
    seconds: float
    tokens_per_second: float | None
    first_token_seconds: dict[str, float] | None
    token_seconds: dict[str, float] | None
    prefixes: Prefixes
    startup_seconds: float | None
    processes: list[ProcessSeconds]


class BatchOutput(Output):
    """`batch`: what the whole has come to."""

    format: Literal["prefixkv-batch"]
    out: str
    answers: int
    errors: list[int]
    speed: BatchSpeed
