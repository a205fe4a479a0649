"""`snapkv`: SnapKV (arXiv 2404.14469), and `pyramidkv`: the same with PyramidKV's shares (arXiv 2406.02069)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prefixkv.methods import allocation
from prefixkv.methods.layers_read import LayersRead, uniform
from prefixkv.methods.method import Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence


def observed(evidence: Evidence) -> torch.Tensor:
    """Mean attention of the last queries, averaged over neighbouring entries (SnapKV, section 4).

    Deviation: heads of a group share one choice, as kv heads are what is stored.
    """
    return evidence.pooled(evidence.attention(evidence.window) / evidence.window.shape[2])


def pyramid(read: LayersRead) -> list[int]:
    """Share so that each layer keeps fewer entries than the one before (PyramidKV, section 4.2)."""
    return allocation.pyramid(read.total, read.layers, read.seen, read.floor)


SNAPKV = Method(
    "snapkv",
    "attention of the last 64 queries per kv head, pooled, those 64 kept, equal layers (SnapKV)",
    observed,
    uniform,
    queries="window",
    per_head=True,
    recent_tokens=1,
    recent_fraction=0.5,
    recent_most=64,
    window="recent",
)
PYRAMIDKV = replace(SNAPKV, name="pyramidkv", summary="as snapkv, lower layers keep more (PyramidKV)", allocate=pyramid)
