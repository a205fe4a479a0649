"""A decoder's linear layers on the GPU; `prefixkv.kernels.linear` is the specification.

One row is bound by reading weights: our own kernel, everything fused. More rows take cuBLAS between small kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.kernels.linear import Weight
from prefixkv.kernels.triton.rms_norm import rms_norm, swiglu
from prefixkv.kernels.triton.row_linear import row_linear


def normed_linear(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float, weights: Sequence[Weight]
) -> list[torch.Tensor]:
    """As the plain twin."""
    if hidden.shape[0] == 1 and len({bias is None for _, bias in weights}) == 1:
        together = row_linear(hidden, weights, norm=(gain, epsilon))
        return list(together.split([weight.shape[0] for weight, _ in weights], dim=1))
    normed = rms_norm(hidden, gain, epsilon)
    return [torch.nn.functional.linear(normed, weight, bias) for weight, bias in weights]


def swiglu_linear(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float, gate: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    """As the plain twin."""
    if hidden.shape[0] == 1:
        return row_linear(hidden, [(gate, None), (up, None)], norm=(gain, epsilon), swiglu=True)
    normed = rms_norm(hidden, gain, epsilon)
    return swiglu(torch.nn.functional.linear(normed, gate), torch.nn.functional.linear(normed, up))


def residual_linear(hidden: torch.Tensor, weight: Weight, residual: torch.Tensor) -> torch.Tensor:
    """As the plain twin."""
    if hidden.shape[0] == 1:
        return row_linear(hidden, [weight], residual=residual)
    if weight[1] is not None:
        return residual + torch.nn.functional.linear(hidden, *weight)
    return torch.addmm(residual, hidden, weight[0].t())
