"""`local`: the local window of StreamingLLM (arXiv 2309.17453)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.methods.layers_read import uniform
from prefixkv.methods.method import Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence


def newest(evidence: Evidence) -> torch.Tensor:
    """Newer is more important, whatever the attention: 1 for the oldest entry, their number for the newest."""
    return evidence.places


LOCAL = Method(
    "local",
    "the first 4 entries and the newest (StreamingLLM)",
    newest,
    uniform,
    queries="none",
    sink_tokens=4,
    recent_tokens=1,
)
