"""What is done where the memory that a conversation takes has ended."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator

import torch

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.errors import OUT_OF_MEMORY, DeviceMemoryError, is_out_of_memory


@contextlib.contextmanager
def memory_errors(cache: PrefixKVCache, device: torch.device) -> Iterator[None]:
    """Where memory ends inside, free what was computed there and what the cache holds, so that there is room again.

    Args:
        cache: is read into inside; empty afterwards where memory has ended.
        device: where the model is.

    Raises:
        DeviceMemoryError: memory has ended.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The frames of the pass hold on to its tensors.
        traceback.clear_frames(error.__traceback__)
        cache.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise DeviceMemoryError(
            f"{device} {OUT_OF_MEMORY}: give a smaller --budget, a smaller image or a shorter answer"
        ) from None


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """`malloc_trim` of glibc; None where there is none."""
    import ctypes

    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # another C library, or Windows
        return None
    return found


def give_back() -> None:
    """Hand the host's memory that is free back to the system.

    Each turn renders the whole conversation anew. Left to itself, what is kept of a turn settles in the gaps of what
    was freed behind it, and holds all of that.
    """
    if trim := _trim():
        trim(0)
