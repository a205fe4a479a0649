"""Layers that attend to a sliding window: transformers' own cache layers, left alone beside the compressed ones."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from prefixkv.models.geometry import KVGeometry


def new_windows(geometry: KVGeometry) -> dict[int, DynamicSlidingWindowLayer]:
    """Empty window layers of one row, by their number among all decoder layers."""
    return {place: DynamicSlidingWindowLayer(geometry.window_tokens) for place in geometry.window_layers}


def update_window(
    layer: DynamicSlidingWindowLayer, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take in a window layer's new keys and values.

    Args:
        layer: of one row.
        keys: (1, kv_heads, new_len, head_dim).
        values: same shape.

    Returns:
        What the new tokens attend to: at most a window less one of earlier entries, then all new ones.
    """
    seen = layer.update(keys, values)
    if keys.shape[2] > 1:
        # Transformers keeps a view of the whole chunk, which would stay in memory with it.
        layer.keys, layer.values = (None if part is None else part.clone() for part in (layer.keys, layer.values))
    return seen


def window_bytes(layer: DynamicSlidingWindowLayer) -> int:
    """Bytes that a window layer holds."""
    if not layer.is_initialized:
        return 0
    return sum(part.untyped_storage().nbytes() for part in (layer.keys, layer.values) if part is not None)


def window_mask(
    within: torch.Tensor | None,
    queries: int,
    keys: int,
    window: int,
    device: torch.device,
    seen_tokens: int | None = None,
) -> torch.Tensor | None:
    """Which keys the queries of one row see in a window layer, by the row's own tokens.

    Args:
        within: (1, 1, queries, queries), bool: what the queries see of each other; None for causal attention.
        queries: new tokens.
        keys: entries that `update_window` returned, the new tokens last.
        window: tokens that a query sees, itself among them.
        device: where the layer computes.
        seen_tokens: where the windows are chunks, the tokens of the row that were read, the new ones among them.

    Returns:
        (1, 1, queries, keys), bool; None where causal attention by itself is right.
    """
    if seen_tokens is None and (queries == 1 or (within is None and keys <= window)):
        return None
    own = torch.arange(keys - queries, keys, device=device)[:, None]
    every = torch.arange(keys, device=device)
    if seen_tokens is not None:
        first = seen_tokens - keys
        seen = (every <= own) & ((every + first) // window == (own + first) // window)
    else:
        seen = (every <= own) & (own - every < window)
    seen = seen[None, None]
    return seen if within is None else torch.cat([seen[..., : keys - queries], within], dim=-1)
