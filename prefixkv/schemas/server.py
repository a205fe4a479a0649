"""The file by which commands find the server that runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from prefixkv.schemas.field import Name, Schema


class ServerSchema(Schema):
    """Where the user's server listens, which process it is, and the key that it takes from them."""

    format: Literal["prefixkv-server"]
    version: Literal[1]
    url: Annotated[str, Field(pattern=r"^http://[^/\s]+$", max_length=300)]
    process: Annotated[int, Field(ge=1, lt=2**31)]
    token: Annotated[str, Field(min_length=16, max_length=200, pattern=r"^[A-Za-z0-9_-]+$")]
    model: Name
