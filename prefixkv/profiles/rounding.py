"""A prompt stored in few bits, as packing would leave it: what a model loses by that is measured; models differ."""

from __future__ import annotations

from typing import Any

import torch

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.kernels.packed_row import key_bits, makes_bytes, value_bits
from prefixkv.kernels.packing import pack, unpack
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.precision import ROUNDED


class _RoundedCache(PrefixKVCache):
    """A full cache that stores what it takes in as packing would leave it, but not in window layers.

    A view of its row (`PrefixKVCache.of_rows`), in which the answer is read, stores what follows as it is.
    """

    def __init__(self, geometry: KVGeometry, bits: int) -> None:
        super().__init__(geometry, "100%", "full")
        self._bits = bits

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values, rounded."""
        if layer_idx not in self.windows:
            key_states = _rounded(key_states, key_bits(self._bits))
            value_states = _rounded(value_states, value_bits(self._bits))
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def _rounded(vectors: torch.Tensor, bits: int) -> torch.Tensor:
    return unpack(pack(vectors, bits), bits, vectors.dtype)


def rounded_caches(geometry: KVGeometry) -> dict[int, PrefixKVCache]:
    """Empty caches that keep all entries and round those of the prompt to each of `ROUNDED`.

    Args:
        geometry: the model's KV shape; a packed key or value must be whole bytes.

    Returns:
        By the bits, as far as the shape allows them.
    """
    shape = geometry.shape
    allowed = (bits for bits in ROUNDED if makes_bytes(bits, shape.key_dim, shape.value_dim))
    return {bits: _RoundedCache(geometry, bits) for bits in allowed}
