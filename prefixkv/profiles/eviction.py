"""A prompt of which shares are kept as they are: what a model loses by that is what precision is given up for."""

from __future__ import annotations

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.look_ahead import LookAhead

SHARES = (0.5, 0.35, 0.2, 0.1)
"""Of the entries that are kept: about what 8, 4 and 2 bits hold at budgets from 30 to 3 %."""


def evicting_caches(geometry: KVGeometry, look_ahead: LookAhead) -> dict[float, PrefixKVCache]:
    """Empty caches in which `guided` keeps a share of the entries, each as it is.

    Args:
        geometry: the model's KV shape.
        look_ahead: queries of the model.

    Returns:
        By the share.
    """
    return {share: PrefixKVCache(geometry, share, "guided", None, look_ahead, "plain") for share in SHARES}
