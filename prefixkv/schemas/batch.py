"""A line of a file of batch answers; `prefixkv.batch.results` writes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from prefixkv.schemas.field import MOST_BYTES, Bytes, Name, Schema, Sha256, Tokens

AnswerText = Annotated[str, Field(max_length=2**26)]


class PictureFileSchema(Schema):
    """The file that a picture was read from."""

    bytes: Bytes
    modified: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    sha256: Sha256


class BatchAnswerSchema(Schema):
    """An answer, or why there is none."""

    line: Annotated[int, Field(ge=1, le=MOST_BYTES)]
    input: Name
    settings: Name
    id: Any = None
    answer: AnswerText | None = None
    error: AnswerText | None = None
    prompt_tokens: Tokens | None = None
    new_tokens: Tokens | None = None
    finish_reason: Name | None = None
    pictures: Annotated[list[PictureFileSchema | None], Field(max_length=100_000, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _answer_or_error(self) -> BatchAnswerSchema:
        if (self.answer is None) == (self.error is None):
            raise ValueError("there is an answer or an error, and not both")
        return self
