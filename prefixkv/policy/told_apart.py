"""How much of what tells a prompt's keys apart is lost by rounding them: measured where no profile says it."""

from __future__ import annotations

import torch

from prefixkv.kernels.dispatch import pack
from prefixkv.kernels.packing import unpack
from prefixkv.policy.precision import BEARABLE_LOSS, COARSE_BITS, Losses

SAMPLE = 256
"""Keys of a head that are rounded, spread over the prompt."""
MOST_LOST = 0.1
"""Of the keys' variance: up to this, 4 bits are taken to be bearable where entries are scarce."""


def lost_share(keys: torch.Tensor, bits: int) -> float:
    """Mean squared error of rounded keys, as a part of their variance over the tokens; the worst kv head counts.

    Elements that are large and nearly constant, as Qwen2's biases make them, take the steps of the rounding and tell
    nothing apart: there more may be lost than there is.

    Args:
        keys: (1, kv_heads, entries, head_dim), after RoPE.
        bits: 8, 4 or 2.
    """
    some = keys[:, :, :: max(1, keys.shape[2] // SAMPLE)].float()
    error = (unpack(pack(some, bits), bits, some.dtype) - some).square().sum(dim=(0, 2, 3))
    spread = (some - some.mean(dim=2, keepdim=True)).square().sum(dim=(0, 2, 3))
    return float((error / spread.clamp(min=torch.finfo(spread.dtype).tiny)).max())


def unmeasured_losses(keys: torch.Tensor) -> Losses:
    """What stands for a profile's losses: 4 bits count as just bearable where little is lost, and nothing else does.

    Args:
        keys: of the prompt, in the first layer; as for `lost_share`.
    """
    is_possible = keys.shape[3] * COARSE_BITS % 8 == 0
    return Losses({COARSE_BITS: BEARABLE_LOSS} if is_possible and lost_share(keys, COARSE_BITS) <= MOST_LOST else {})
