"""Attention peak in Triton; `prefixkv.kernels.attention_peak` is its specification."""

from __future__ import annotations

import torch

from prefixkv.kernels.triton.column_attention import column_attention


def attention_peak(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, own: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the plain twin."""
    largest, mean = column_attention(queries.expand(keys.shape[0], -1, -1, -1), keys, scale, own=own, peak=True)
    return largest, mean
