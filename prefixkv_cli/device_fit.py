"""What fits a device, for `prefixkv search --fit`."""

from __future__ import annotations

from prefixkv.errors import OptionError
from prefixkv.models.fitting import Fit, fit, largest_batch
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import gpu_bytes, weight_bytes
from prefixkv.policy.budget import Budget, format_bytes
from prefixkv.policy.codec import get_codec
from prefixkv.profiles.config import PrefixConfig


def room_on_device(model: ModelIdentity, context_tokens: int, device_memory: str | None) -> Fit:
    """Split the device's memory.

    Args:
        model: what is to run.
        context_tokens: tokens of one row.
        device_memory: a size; this machine's GPU where None.

    Raises:
        OptionError: the memory is no size.
        PrefixKVError: there is no GPU, or the model's size is not known.
    """
    if device_memory is not None:
        size = Budget.parse(device_memory)
        if size.kind != "bytes":
            raise OptionError(f"device memory {device_memory!r} is no size: give one such as 80GB")
        memory = int(size.amount)
    else:
        memory = gpu_bytes()
    return fit(memory, weight_bytes(model.id), model.geometry, context_tokens)


def fit_lines(room: Fit, config: PrefixConfig) -> str:
    """The memory's parts, and how many rows fit with the full and with the compressed cache."""
    geometry, tokens = config.model.geometry, config.budget["context_tokens"]
    keep = config.budget["kept_tokens_fraction"] * get_codec(config.codec).entry_size(geometry).stored
    keep /= geometry.entry_bytes
    full = largest_batch(room.cache_bytes, geometry, tokens, 1.0)
    compressed = largest_batch(room.cache_bytes, geometry, tokens, keep)
    return (
        f"device {format_bytes(room.device_bytes)}: weights {format_bytes(room.weight_bytes)}, workspace "
        f"{format_bytes(room.workspace_bytes)}, left for the cache {format_bytes(room.cache_bytes)}\n"
        f"rows of {tokens} tokens that fit: {full} with the full cache, {compressed} at {keep:.1%}"
    )
