"""How much memory an engine may reserve for the caches of its requests, what is said where it ran out, and the peak."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import psutil
import torch

from prefixkv.errors import OUT_OF_MEMORY, DeviceMemoryError, OptionError, is_out_of_memory
from prefixkv.policy.memory_sizes import parse_sizes

DEFAULT_BYTES = 2**30
"""Where there is no GPU."""
GPU_SHARE = 0.6
"""Of the memory that is free once the model is loaded."""


Size = str | int
"""Such as `"4GiB"`, or a number of bytes."""
Memory = Size | Sequence[Size] | Mapping[str, Size] | None
"""A size for the caches of all requests; or one for each device that holds compressed layers, in the order of its first
layer or by its name."""


def memory_limits(asked: Memory, device: torch.device, layers: Sequence[torch.device] = ()) -> int | dict[str, int]:
    """The bytes that were asked for, or what may be taken unasked.

    Args:
        asked: see `Memory`; several sizes may stand in one text, divided by commas.
        device: of the model.
        layers: where each of its compressed layers is. Without a size the device of a model over several GPUs that is
            full first decides, since each takes the entries of its layers.

    Returns:
        One limit for all devices together; or one for each, by its name.

    Raises:
        OptionError: a text is no size, or the limits are not those of the devices that hold compressed layers.
    """
    if asked is None:
        return _share_of_free(device, layers)
    names = list(dict.fromkeys(map(str, layers)))
    where = f"the model's compressed layers are on {', '.join(names) or device}"
    if isinstance(asked, Mapping):
        sizes = {name: _one(size) for name, size in asked.items()}
        if set(sizes) != set(names):
            raise OptionError(
                f"memory has limits for {', '.join(sizes) or 'no device'}, and {where}: give one for each"
            )
        return {name: sizes[name] for name in names}
    limits = parse_sizes(asked) if isinstance(asked, str | int) else tuple(_one(size) for size in asked)
    if len(limits) == 1:
        return limits[0]
    if len(limits) != len(names):
        raise OptionError(f"memory has {len(limits)} limits, and {where}: give one for each, or one for all together")
    return dict(zip(names, limits, strict=True))


def _one(size: Size) -> int:
    sizes = parse_sizes(size)
    if len(sizes) > 1:
        raise OptionError(f"memory {size!r} has several sizes: give one for each device")
    return sizes[0]


def _share_of_free(device: torch.device, layers: Sequence[torch.device]) -> int:
    if device.type != "cuda":
        return DEFAULT_BYTES
    shares = {place: count / len(layers) for place, count in Counter(layers).items() if place.type == "cuda"}
    free = (torch.cuda.mem_get_info(place)[0] / share for place, share in (shares or {device: 1.0}).items())
    return int(min(free) * GPU_SHARE)


def told(error: Exception, device: torch.device) -> Exception:
    """What those who wait are told of an error; where a device ran out of memory, it has what is not used back."""
    if not is_out_of_memory(error):
        return error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return DeviceMemoryError(f"{device} {OUT_OF_MEMORY}: give a smaller --budget or a smaller --memory")


def peak_bytes(device: torch.device) -> int:
    """Most memory so far: what torch allocated on a CUDA device, else the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows keeps count elsewhere.
        peak: int = psutil.Process().memory_info().peak_wset
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
