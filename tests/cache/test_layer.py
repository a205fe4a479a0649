"""One layer of the cache, without a model."""

from __future__ import annotations

import torch

from prefixkv.cache.decode_limit import DecodeLimit
from prefixkv.cache.layer import CompressedLayer


def test_stored_entries_follow_the_keys_to_their_device() -> None:
    """A restored cache is on one device; a model's later layers may be on another, here one that holds no numbers."""
    layer = CompressedLayer(8, torch.float32)
    layer.arrive(torch.ones(1, 2, 5, 8), torch.ones(1, 2, 5, 8))
    layer.keep(None, torch.zeros(1, 1, 5), 5)
    layer.open_queue(range(5))
    new = torch.ones(1, 2, 1, 8, device="meta")
    layer.write(new, new, DecodeLimit(6))
    keys, values = layer.entries
    assert {part.device.type for part in (keys, values, layer.positions, layer.importance)} == {"meta"}
    assert keys.shape == values.shape == (1, 2, 6, 8)
