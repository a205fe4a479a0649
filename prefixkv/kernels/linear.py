"""The linear layers of a decoder with what surrounds them: RMSNorm before, SwiGLU or the residual behind.

For one token of each row, or all tokens of a chunk. Rounding is transformers': the norm's result and each product have
the weights' dtype; the Triton versions round a sum once that is added to a residual.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear, silu

Weight = tuple[torch.Tensor, torch.Tensor | None]
"""(outputs, inputs), contiguous, and the bias (outputs,) or None."""


def rms_norm(hidden: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root mean square normalisation (arXiv 1910.07467): `gain * x / sqrt(mean(x ** 2) + epsilon)`.

    Args:
        hidden: (..., inputs), float dtype; the mean is taken in float32.
        gain: (inputs,), same dtype.
        epsilon: added to the mean.

    Returns:
        (..., inputs), in the dtype of `hidden`.
    """
    exact = hidden.float()
    scaled = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + epsilon)
    return gain * scaled.to(hidden.dtype)


def normed_linear(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float, weights: Sequence[Weight]
) -> list[torch.Tensor]:
    """`linear(rms_norm(hidden))` for several weights.

    Args:
        hidden: (..., inputs).
        gain: (inputs,), of the norm.
        epsilon: of the norm.
        weights: with the same inputs.

    Returns:
        (..., outputs) for each weight; rows may lie apart, their numbers are contiguous.
    """
    normed = rms_norm(hidden, gain, epsilon)
    return [linear(normed, weight, bias) for weight, bias in weights]


def swiglu_linear(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float, gate: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    """`silu(gate x) * (up x)` of the normed input (SwiGLU, arXiv 2002.05202).

    Args:
        hidden: (..., inputs).
        gain: (inputs,), of the norm.
        epsilon: of the norm.
        gate: (outputs, inputs), contiguous.
        up: same shape.

    Returns:
        (..., outputs).
    """
    normed = rms_norm(hidden, gain, epsilon)
    return silu(linear(normed, gate)) * linear(normed, up)


def residual_linear(hidden: torch.Tensor, weight: Weight, residual: torch.Tensor) -> torch.Tensor:
    """`residual + linear(hidden)`.

    Args:
        hidden: (..., inputs).
        weight: the layer.
        residual: (..., outputs); not written to.

    Returns:
        (..., outputs).
    """
    return residual + linear(hidden, *weight)
