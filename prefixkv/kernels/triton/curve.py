"""Curves of layers in Triton; `prefixkv.kernels.curve` is its specification."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl


@triton.jit
def _share_kernel(values_ptr, totals_ptr, out_ptr, rows, seen_len, R: tl.constexpr, N: tl.constexpr):
    """out[layer, j]: mean over the layer's rows of their share at rank j."""
    layer, columns = tl.program_id(1), tl.program_id(0) * N + tl.arange(0, N)
    values_ptr += layer.to(tl.int64) * rows * seen_len
    totals_ptr += layer * rows
    shares = tl.zeros([N], tl.float64)
    for start in range(0, rows, R):
        members = start + tl.arange(0, R)
        inside = (members < rows)[:, None] & (columns < seen_len)[None, :]
        places = members[:, None].to(tl.int64) * seen_len + columns[None, :]
        values = tl.load(values_ptr + places, inside, 0.0).to(tl.float64)
        totals = tl.load(totals_ptr + members, members < rows, 1.0)[:, None]
        flat = (values * 0.0 + 1.0) / seen_len
        shares += tl.sum(tl.where(inside, tl.where(totals == 0.0, flat, values / totals), 0.0), axis=0)
    tl.store(out_ptr + layer * seen_len + columns, shares / rows, columns < seen_len)


def curve(values: torch.Tensor) -> torch.Tensor:
    """As the plain twin."""
    *leading, rows, seen_len = values.shape
    values, layers = values.contiguous(), math.prod(leading)
    totals = values.sum(dim=-1, dtype=torch.float64)
    shares = torch.empty(layers, seen_len, dtype=torch.float64, device=values.device)
    _share_kernel[(triton.cdiv(seen_len, 64), layers)](values, totals, shares, rows, seen_len, R=32, N=64, num_warps=4)
    return shares.cumsum(-1).view(*leading, seen_len)
