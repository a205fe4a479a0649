"""What fits a device: weights, cache and the workspace of one layer."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.errors import BudgetTooSmallError
from prefixkv.models.geometry import KVGeometry

RESERVED_SHARE = 0.05
"""Share of the device's memory left to the driver, the allocator's gaps and activations."""


@dataclass(frozen=True)
class Fit:
    """Bytes on a device.

    Attributes:
        device_bytes: memory there is.
        weight_bytes: the model.
        workspace_bytes: one layer's whole keys and values for one row, while it is compacted, and the reserve.
        cache_bytes: what is left for the compressed cache of all rows.
    """

    device_bytes: int
    weight_bytes: int
    workspace_bytes: int
    cache_bytes: int


def fit(device_bytes: int, weight_bytes: int, geometry: KVGeometry, context_tokens: int) -> Fit:
    """Split a device's memory; rows are prefilled one after the other.

    Args:
        device_bytes: memory of the device.
        weight_bytes: the model.
        geometry: shape of the cache.
        context_tokens: tokens of one row.

    Raises:
        BudgetTooSmallError: nothing is left for a cache.
    """
    workspace = geometry.entry_bytes * context_tokens + int(RESERVED_SHARE * device_bytes)
    left = device_bytes - weight_bytes - workspace
    if left <= 0:
        raise BudgetTooSmallError(
            f"the weights ({weight_bytes:,} bytes) and the workspace ({workspace:,} bytes) leave nothing of "
            f"{device_bytes:,} bytes for a cache: take a larger device or a smaller model"
        )
    return Fit(device_bytes, weight_bytes, workspace, left)


def largest_batch(cache_bytes: int, geometry: KVGeometry, context_tokens: int, stored_fraction: float) -> int:
    """Rows whose caches, compressed to a share of what the model's own precision takes, fit into so many bytes."""
    return int(cache_bytes / (geometry.token_bytes * context_tokens * stored_fraction))
