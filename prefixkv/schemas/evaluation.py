"""The files of an evaluation's folder: its head, and the lines of its records; `prefixkv.evaluation` writes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from prefixkv.schemas.field import MOST_BYTES, Name, Schema, Share, SomeTokens, Text, Tokens

Mean = Annotated[float, Field(gt=0, le=MOST_BYTES)]
Nats = Annotated[float, Field(ge=-1e15, le=1e15)]
"""Sums over all samples stay finite."""


class EvaluationSchema(Schema):
    """The head: what was measured, and how."""

    format: Literal["prefixkv-evaluation"]
    version: Literal[2]
    settings: dict[Name, Any]


class RecordSchema(Schema):
    """One sample in one cell; which figures there are depends on the metrics."""

    sample: Tokens
    method: Name
    budget: Name
    codec: Name = "auto"
    recipe: Name
    kept_bytes: Mean
    full_bytes: Mean
    kept_tokens_fraction: Share
    bits: Annotated[float, Field(ge=1, le=16)]
    seen_tokens: Mean
    evicts: bool
    tokens: Tokens | None = None
    loss: Nats | None = None
    kl_tokens: SomeTokens | None = None
    kl: Nats | None = None
    answer: Text | None = None
    rouge_l: Annotated[float, Field(ge=0, le=1)] | None = None
    exact: bool | None = None
    relaxed: bool | None = None
