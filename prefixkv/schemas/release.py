"""The file of the paper's release: a bare list of FORGOTTEN fractions, one a layer."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from prefixkv.errors import PrefixKVError
from prefixkv.schemas.field import Forgotten, refusal

_LIST: TypeAdapter[list[float]] = TypeAdapter(Forgotten)


def read_forgotten(content: Any, layers: int, where: str) -> tuple[float, ...]:
    """Read the list.

    Args:
        content: as JSON gave it.
        layers: of the model that it is for.
        where: the file, for messages.

    Raises:
        PrefixKVError: it is no such list, or one for another number of layers.
    """
    try:
        values = _LIST.validate_python(content, strict=True)
    except ValidationError as error:
        raise PrefixKVError(f"{where} is not the release's list of forgotten fractions: {refusal(error)}") from None
    if len(values) != layers:
        raise PrefixKVError(
            f"{where} is a list of {len(values)}, not the release's list of {layers} forgotten fractions, one a layer"
        )
    return tuple(values)
