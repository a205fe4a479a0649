"""What is done where the memory that a conversation takes has ended."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

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
