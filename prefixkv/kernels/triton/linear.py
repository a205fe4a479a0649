"""A decoder's linear layers on the GPU; `prefixkv.kernels.linear` is the specification.

A few rows are bound by reading weights: our own kernels, everything fused; for one row the norm, too. More rows, and
float32, whose products the matrix units do not take, go to cuBLAS between small kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.kernels.linear import Weight
from prefixkv.kernels.triton import rms_norm as norms
from prefixkv.kernels.triton.row_linear import MOST_WEIGHTS, row_linear
from prefixkv.kernels.triton.rows_linear import MOST_ROWS, rows_linear


def rms_norm(hidden: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    """As the plain twin."""
    return norms.rms_norm(_rows(hidden), gain, epsilon).view(hidden.shape)


def normed_linear(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float, weights: Sequence[Weight]
) -> list[torch.Tensor]:
    """As the plain twin."""
    rows, leading = _rows(hidden), hidden.shape[:-1]
    alike = len({bias is None for _, bias in weights}) == 1 and len(weights) <= MOST_WEIGHTS
    if alike and (rows.shape[0] == 1 or _are_few(rows)):
        if rows.shape[0] == 1:
            together = row_linear(rows, weights, norm=(gain, epsilon))
        else:
            together = rows_linear(norms.rms_norm(rows, gain, epsilon), weights)
        parts = together.split([weight.shape[0] for weight, _ in weights], dim=1)
        return [part.view(*leading, -1) for part in parts]
    normed = norms.rms_norm(rows, gain, epsilon).view(hidden.shape)
    return [torch.nn.functional.linear(normed, weight, bias) for weight, bias in weights]


def swiglu_linear(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float, gate: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    """As the plain twin."""
    rows, leading = _rows(hidden), hidden.shape[:-1]
    if rows.shape[0] == 1:
        out = row_linear(rows, [(gate, None), (up, None)], norm=(gain, epsilon), swiglu=True)
    elif _are_few(rows):
        out = rows_linear(norms.rms_norm(rows, gain, epsilon), [(gate, None), (up, None)], swiglu=True)
    else:
        normed = norms.rms_norm(rows, gain, epsilon)
        out = norms.swiglu(torch.nn.functional.linear(normed, gate), torch.nn.functional.linear(normed, up))
    return out.view(*leading, gate.shape[0])


def residual_linear(hidden: torch.Tensor, weight: Weight, residual: torch.Tensor) -> torch.Tensor:
    """As the plain twin."""
    rows, residual_rows = _rows(hidden), _rows(residual)
    if rows.shape[0] == 1:
        out = row_linear(rows, [weight], residual=residual_rows)
    elif _are_few(rows):
        out = rows_linear(rows, [weight], residual=residual_rows)
    elif weight[1] is not None:
        out = residual_rows + torch.nn.functional.linear(rows, *weight)
    else:
        out = torch.addmm(residual_rows, rows, weight[0].t())
    return out.view(residual.shape)


def _are_few(rows: torch.Tensor) -> bool:
    return rows.shape[0] <= MOST_ROWS and rows.dtype != torch.float32


def _rows(hidden: torch.Tensor) -> torch.Tensor:
    """(rows, numbers), of which the numbers of a row lie side by side."""
    rows = hidden if hidden.ndim == 2 else hidden.reshape(-1, hidden.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
