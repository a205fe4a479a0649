"""A prompt and its answer stored in few bits: what a model loses by that is measured; models differ."""

from __future__ import annotations

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.kernels.packed_row import makes_bytes
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.codec import stored_name
from prefixkv.policy.precision import ROUNDED


def rounded_caches(geometry: KVGeometry) -> dict[int, PrefixKVCache]:
    """Empty caches that keep all entries, those of the answer too, in each of `ROUNDED`.

    Entries of the answer count, as they are packed when the cache is used: along given text SmolLM2 loses four times as
    much where they are in 4 bits like the prompt's than where only the prompt's are.

    Args:
        geometry: the model's KV shape; a packed key or value must be whole bytes.

    Returns:
        By the bits, as far as the shape allows them.
    """
    allowed = (bits for bits in ROUNDED if makes_bytes(bits, *geometry.shape[1:]))
    return {bits: PrefixKVCache(geometry, "100%", "full", codec=stored_name(bits)) for bits in allowed}
