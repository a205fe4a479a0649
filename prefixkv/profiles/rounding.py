"""A prompt stored in few bits, as packing would leave it: what a model loses by that is measured; models differ."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, DynamicCache

from prefixkv.kernels.packed_row import key_bits, makes_bytes, value_bits
from prefixkv.kernels.packing import pack, unpack
from prefixkv.models.layer_sizes import EntryShape
from prefixkv.policy.precision import ROUNDED


class _RoundedCache(DynamicCache):
    """A full cache whose first chunk is attended to as it is and stored as packing would leave it."""

    def __init__(self, config: Any, bits: int) -> None:
        super().__init__(config=config)
        self._bits = bits
        self._read: set[int] = set()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store rounded in the first pass, but not in window layers, which are never packed."""
        if layer_idx in self._read or self.is_sliding[layer_idx]:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        self._read.add(layer_idx)
        keys, values = _rounded(key_states, key_bits(self._bits)), _rounded(value_states, value_bits(self._bits))
        super().update(keys, values, layer_idx, *args, **kwargs)
        return key_states, value_states


def _rounded(vectors: torch.Tensor, bits: int) -> torch.Tensor:
    return unpack(pack(vectors, bits), bits, vectors.dtype)


def rounded_caches(config: Any, shape: EntryShape) -> dict[int, Cache]:
    """Empty caches that keep all entries and round those of the prompt to each of `ROUNDED`.

    Args:
        config: of a model of transformers.
        shape: of an entry; a packed key or value must be whole bytes.

    Returns:
        By the bits, as far as the shape allows them.
    """
    return {bits: _RoundedCache(config, bits) for bits in ROUNDED if makes_bytes(bits, shape.key_dim, shape.value_dim)}
