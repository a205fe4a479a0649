"""Fields that the formats share, and the one way in which what does not fit them is refused.

Every number is finite and bounded, no text is taken for a number, and no list is looked at beyond its first odd item.
What a format does not name is left out, so that a file may say more than is read.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from prefixkv.errors import PrefixKVError

MOST_SHOWN = 200
"""Characters of what was given that a message shows."""

MOST_LAYERS = 1024
MOST_TOKENS = 2**31 - 1
MOST_BYTES = 2**53
"""Above these no model and no cache is; the last is what JSON's numbers hold exactly in every language."""

_SUBJECT = re.compile(r"^[A-Z][a-z]+ should")
"""How pydantic begins to say what is allowed: of the input, a string, a list."""

Text = Annotated[str, Field(max_length=2**20)]
MOST_NAME = 4096


def with_bytes(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """A file's name may hold bytes that are no UTF-8, which Python has as halves of pairs; pydantic takes none."""
    is_name = isinstance(value, str) and len(value) <= MOST_NAME
    return value if is_name and any("\ud800" <= letter <= "\udfff" for letter in value) else handler(value)


Name = Annotated[str, Field(max_length=MOST_NAME), WrapValidator(with_bytes)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
SomeTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Bytes = Annotated[int, Field(ge=0, le=MOST_BYTES)]
Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[list[Share], Field(min_length=1, max_length=MOST_LAYERS, fail_fast=True)]
Forgotten = Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(max_length=MOST_LAYERS, fail_fast=True)]
NotNegative = Annotated[float, Field(ge=0)]


class Schema(BaseModel):
    """What all formats have in common."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore", protected_namespaces=())


Parsed = TypeVar("Parsed", bound=Schema)


def parse(schema: type[Parsed], content: Any, where: str) -> Parsed:
    """Read plain values as a format has them.

    Args:
        schema: of the format.
        content: as JSON gave it.
        where: the file, for the message.

    Raises:
        PrefixKVError: a field is missing, of the wrong kind or not allowed; one line says which, what was given and
            what is allowed.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise PrefixKVError(f"{where}: {refusal(error)}") from None


def refusal(error: ValidationError) -> str:
    """The first of pydantic's findings in one line: which field, what was given, what is allowed."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = shown_text(".".join(map(str, first["loc"])))
    if first["type"] == "missing":
        return f"{field} is missing"
    allowed = _SUBJECT.sub("should", first["msg"].removeprefix("Value error, ")).rstrip(".")
    if first["type"] == "value_error":
        return f"{field}: {allowed}" if field else allowed
    return f"{field + ' ' if field else ''}is {shown(first['input'])}: it {allowed[:1].lower()}{allowed[1:]}"


def shown(value: Any) -> str:
    """A value for a message, in one line, cut to `MOST_SHOWN` characters without writing out what is cut."""
    if isinstance(value, Mapping):
        return f"an object of {len(value)} fields"
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = MOST_SHOWN
    return shown_text(short.repr(value))


def shown_text(text: str) -> str:
    """A text in one line, cut in its middle."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text[: 2 * MOST_SHOWN])
    return line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN - 3]}..."
