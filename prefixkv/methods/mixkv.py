"""`mixkv`: MixKV (arXiv 2510.20707), which mixes importance with diversity, more so where keys are alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prefixkv.methods.snapkv import SNAPKV, observed

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence

SMALLEST = 1e-8
"""Added to what is divided by, as in the paper's release."""


def mixed(evidence: Evidence) -> torch.Tensor:
    """SnapKV's importance and the length of the value, mixed with how little the key resembles the mean key.

    With `u(x)` for numbers brought to [0, 1] by their least and largest and then to the mean of the attention `a`, and
    `n_i = k_i / |k_i|` (`headwisemixkv` of the release, xuyang-liu16/MixKV):

    * importance: `a_i + u(|v_i|)`, where `a` is the mean attention of the window, pooled;
    * diversity: `u(-n_i mean_j(n_j))`; `u` is the same for the cosine with the mean, which is what is computed;
    * score: `(1 - r)` of importance and `r` of diversity, where `r`, the redundancy of the head, is the mean cosine of
      two different keys, `(N |mean_j(n_j)|^2 - 1) / (N - 1)`, and no less than 0.

    Least, largest and mean are those of the entries before the window, which is kept. Deviations: `r` is that of the
    prompt's own keys, where the release reads averages over samples from a table; window and pooling are `snapkv`'s.
    """
    attention = observed(evidence)
    entries = attention.shape[-1]
    earlier = entries - evidence.window.shape[2] or entries
    level = attention[..., :earlier].mean(dim=-1, keepdim=True)
    importance = attention + _levelled(evidence.value_norms, earlier, level)
    diversity = _levelled(evidence.key_distance, earlier, level)
    redundancy = _redundancy(evidence.keys.float())
    return (1 - redundancy) * importance + redundancy * diversity


def _levelled(values: torch.Tensor, count: int, level: torch.Tensor) -> torch.Tensor:
    """Values brought to [0, 1] by the least and the largest of the first `count`, then to the mean `level` there."""
    low, high = values[..., :count].amin(dim=-1, keepdim=True), values[..., :count].amax(dim=-1, keepdim=True)
    unit = ((values - low) / (high - low + SMALLEST)).clamp(0, 1)
    return unit * (level / (unit[..., :count].mean(dim=-1, keepdim=True) + SMALLEST))


def _redundancy(keys: torch.Tensor) -> torch.Tensor:
    """The mean cosine of two different keys of a head, (batch, kv_heads, 1), from 0 to 1."""
    entries = keys.shape[2]
    mean = (keys / (keys.norm(dim=-1, keepdim=True) + SMALLEST)).mean(dim=2)
    return ((entries * mean.square().sum(dim=-1, keepdim=True) - 1) / max(1, entries - 1)).clamp(0, 1)


MIXKV = replace(
    SNAPKV,
    name="mixkv",
    summary="as snapkv with the length of the value, mixed with keys unlike the mean key where keys are alike (MixKV)",
    score=mixed,
)
