"""How much memory an engine may reserve for the caches of its requests, and what is said where it ran out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from prefixkv.errors import OUT_OF_MEMORY, DeviceMemoryError, OptionError, is_out_of_memory
from prefixkv.policy.budget import Budget

DEFAULT_BYTES = 2**30
"""Where there is no GPU."""
GPU_SHARE = 0.6
"""Of the memory that is free once the model is loaded."""


def memory_bytes(asked: str | int | None, device: torch.device, layers: Sequence[torch.device] = ()) -> int:
    """The bytes that were asked for, or what may be taken unasked.

    Args:
        asked: a size such as `"4GiB"`, a number of bytes, or None.
        device: of the model.
        layers: where each of its layers is. Of a model over several GPUs the one that is full first decides, since each
            takes the entries of its layers.

    Raises:
        OptionError: the text is no size.
    """
    if isinstance(asked, int):
        if asked < 1:
            raise OptionError(f"memory {asked} is no size: give 1 byte or more")
        return asked
    if asked is not None:
        size = Budget.parse(asked)
        if size.kind != "bytes":
            raise OptionError(f"memory {asked!r} is no size: give one such as 4GiB")
        return int(size.amount)
    if device.type == "cuda":
        shares = {place: count / len(layers) for place, count in Counter(layers).items() if place.type == "cuda"}
        free = (torch.cuda.mem_get_info(place)[0] / share for place, share in (shares or {device: 1.0}).items())
        return int(min(free) * GPU_SHARE)
    return DEFAULT_BYTES


def told(error: Exception, device: torch.device) -> Exception:
    """What those who wait are told of an error; where a device ran out of memory, it has what is not used back."""
    if not is_out_of_memory(error):
        return error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return DeviceMemoryError(f"{device} {OUT_OF_MEMORY}: give a smaller --budget or a smaller --memory")
