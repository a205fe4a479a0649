"""`keydiff`: KeyDiff (arXiv 2504.15364), which looks at keys alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.methods.layers_read import uniform
from prefixkv.methods.method import Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence


def distinct(evidence: Evidence) -> torch.Tensor:
    """How little a key resembles the others: 1 less its cosine with the mean of all keys, each scaled to length 1.

    The paper's `s_i = -CosSim(mean_j(k_j / |k_j|), k_i)` (section 3), raised by 1 so that none is negative.
    """
    return evidence.key_distance


KEYDIFF = Method(
    "keydiff",
    "keys unlike the mean key, per kv head, equal layers; looks at no query (KeyDiff)",
    distinct,
    uniform,
    queries="none",
    per_head=True,
    recent_tokens=1,
    window="least",
)
