"""The weight files of a folder, looked at before a model is made of them: whole, and of numbers that are weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError

INDEX = "model.safetensors.index.json"
_MOST_HEADER = 100 * 2**20
"""Bytes of a header, as the safetensors library allows them."""
_PACKED = ("I8", "U8", "I16", "I32", "F8_E4M3", "F8_E5M2", "F4")
"""Dtypes of weights that are numbers only together with their scales."""


def check_weight_files(folder: Path, is_quantized: bool) -> None:
    """Refuse files that are not whole, or that hold quantised weights which nobody would unpack.

    Args:
        folder: of a model.
        is_quantized: whether its configuration says how its weights are packed.

    Raises:
        PrefixKVError: a file is cut off, missing, or of another kind than its name says.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file() and not (folder / "model.safetensors").is_file():
        weights = [folder / name for name in _named_files(folder / INDEX)]
    for file in weights:
        for name, dtype in _tensors(file):
            if not is_quantized and dtype in _PACKED and name.endswith(".weight"):
                raise PrefixKVError(
                    f"{name} in {file.name} is quantised ({dtype}), and config.json has no quantization_config that "
                    "says how: download it again, or take the model that it was made of"
                )


def _named_files(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        PrefixKVError: it names none, or one outside its folder, or one that is not there.
    """
    try:
        places: Any = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(places.values()))
        is_right = bool(names) and all(Path(name).name == name for name in names)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        is_right = False
    if not is_right:
        raise PrefixKVError(f"{index.name} does not say which file each weight is in: download it again")
    for name in names:
        if not (index.parent / name).is_file():
            raise PrefixKVError(f"{name}, which {index.name} names, is not there: download it again")
    return names


def _tensors(file: Path) -> Iterator[tuple[str, str]]:
    """Name and dtype of each tensor in a safetensors file.

    Raises:
        PrefixKVError: it is none, or ends before its last tensor does.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header: Any = json.loads(opened.read(length)) if length <= min(_MOST_HEADER, size) else None
        tensors = {name: value for name, value in header.items() if name != "__metadata__"}
        found = [(name, str(value["dtype"])) for name, value in tensors.items()]
        end = 8 + length + max((int(value["data_offsets"][1]) for value in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise PrefixKVError(f"{file.name} is no safetensors file, or a broken one: download it again") from None
    if size < end:
        raise PrefixKVError(f"{file.name} is cut off ({size:,} bytes of {end:,}): download it again")
    yield from found
