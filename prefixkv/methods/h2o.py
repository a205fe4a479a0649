"""`h2o`: the heavy hitters of H2O (arXiv 2306.14048) and the newest entries, half and half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.methods.layers_read import uniform
from prefixkv.methods.method import Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence


def accumulated(evidence: Evidence) -> torch.Tensor:
    """Attention summed over all queries (PrefixKV section 3, H2O), mean over the heads of a group; in queries."""
    return evidence.attention(evidence.queries)


H2O = Method(
    "h2o",
    "accumulated attention per kv head, half of it recent entries, equal layers (H2O)",
    accumulated,
    uniform,
    queries="summed",
    adds_up=True,
    per_head=True,
    recent_tokens=1,
    recent_fraction=0.5,
    window="recent",
)
