"""How much a model's answers suffer when entries are evicted: measured, so that precision is given up at its price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.profiles.divergence import divergences

SHARES = (0.5, 0.35, 0.2, 0.1)
"""Of the entries that are kept: about what 8, 4 and 2 bits hold at budgets from 30 to 3 %."""


def eviction_losses(
    model: Any, inputs: Mapping[str, torch.Tensor], answer: torch.Tensor, geometry: KVGeometry, look_ahead: LookAhead
) -> tuple[dict[float, float], int]:
    """What is lost along an answer where `guided` keeps a share of the entries, each as it is.

    Args:
        model: of transformers.
        inputs: of one prompt, on the model's device.
        answer: (tokens,), int64: the model's own.
        geometry: the model's KV shape.
        look_ahead: queries of the model.

    Returns:
        As for `divergences`, by the share.
    """
    caches = {share: PrefixKVCache(geometry, share, "guided", None, look_ahead, "plain") for share in SHARES}
    return divergences(model, inputs, answer, caches, attention.installed(model))
