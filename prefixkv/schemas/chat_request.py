"""What a client asks of `/v1/chat/completions`: OpenAI's fields, as far as they are done, and our own beside them.

A field that would change the answer and is not done is refused; one that would not, such as `user`, is left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from prefixkv.pixels import LEAST_PIXELS
from prefixkv.schemas.field import MOST_TOKENS, Name, Schema, SomeTokens
from prefixkv.schemas.line import ManyTexts

MOST_MESSAGES = 10_000
NOT_DONE = ("tools", "functions", "function_call", "logit_bias", "audio", "web_search_options")
"""Fields that would change an answer."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "tool_choice": ("none", "auto"),
    "n": (1,),
}
"""Fields that are not done either, and the values with which they change nothing."""


class MessageSchema(Schema):
    """One message; its content is a text, or a list of texts and pictures as `prefixkv.inputs.parts` reads it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=2**26)] | list[Any]


class StreamOptionsSchema(Schema):
    """What comes beside the pieces of an answer."""

    include_usage: bool = False


class ChatRequestSchema(Schema):
    """A conversation that ends in a question, and how the answer is chosen and its cache kept."""

    messages: Annotated[list[MessageSchema], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptionsSchema | None = None
    max_completion_tokens: SomeTokens | None = None
    max_tokens: SomeTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: ManyTexts = Field(default_factory=list)
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    budget: Annotated[str, Field(max_length=100), BeforeValidator(lambda given: _budget_text(given))] | None = None
    method: Name | None = None
    codec: Name | None = None
    template_args: dict[Name, Any] | None = None
    max_pixels: Annotated[int, Field(ge=LEAST_PIXELS, le=2**53)] | None = None
    keep_marks: bool | None = None
    known_pictures_only: bool = False
    picture_facts: bool = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            raise ValueError("the request is no JSON object: give one with messages")
        for name in (*_NEUTRAL, *NOT_DONE):
            value = given.get(name)
            if value not in (None, [], {}, *_NEUTRAL.get(name, ())):
                raise ValueError(f"{name} is not supported: leave it out")
        return given

    @property
    def longest(self) -> int | None:
        """Tokens of the longest answer that is asked for; None where nothing is said."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def _budget_text(given: Any) -> Any:
    """A share may be a number, too."""
    return str(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else given
