"""A prompt of which shares are kept, as they are or in two precisions: what a model loses by that."""

from __future__ import annotations

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.kernels.packed_row import makes_bytes
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.policy.precision import FEWEST_BITS

MIXED_SHARES = (0.2, 0.14, 0.1, 0.05)
"""Of the bytes of a 16-bit cache that entries in two precisions take."""
SHARES = (0.75, 0.5, 0.35, 0.2, 0.1)
"""Of the entries that are kept: about what 8, 4 and 2 bits hold at budgets from 40 to 3 %."""


def evicting_caches(geometry: KVGeometry, look_ahead: LookAhead) -> dict[float, PrefixKVCache]:
    """Empty caches in which `guided` keeps a share of the entries, each as it is.

    Args:
        geometry: the model's KV shape.
        look_ahead: queries of the model.

    Returns:
        By the share.
    """
    return {share: PrefixKVCache(geometry, share, "guided", None, look_ahead, "plain") for share in SHARES}


def mixing_caches(geometry: KVGeometry, look_ahead: LookAhead) -> dict[str, PrefixKVCache]:
    """Empty caches in which `guided` keeps what a share of the bytes holds in two precisions; as for `evicting_caches`.

    Returns:
        By the share as text; none where a vector in 2 bits makes no whole bytes.
    """
    if not makes_bytes(FEWEST_BITS, *geometry.shape[1:]):
        return {}
    return {str(share): PrefixKVCache(geometry, share, "guided", None, look_ahead, "mixed") for share in MIXED_SHARES}
