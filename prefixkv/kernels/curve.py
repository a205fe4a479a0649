"""Curves of layers: what the most important entries of each bear together, in plain torch."""

from __future__ import annotations

import torch


def curve(values: torch.Tensor) -> torch.Tensor:
    """Importance of the 1, 2, ... most important entries together (the paper's prefix cumulative priority).

    Args:
        values: (layers, rows, seen_len), or (rows, seen_len) for one layer; float32, not negative, each row from the
            highest to the lowest.

    Returns:
        (layers, seen_len), or (seen_len,); float64, ascending to 1: the mean over the rows of their normalised and
        summed importance. An all-zero row counts as flat.
    """
    exact = values.double()
    totals = exact.sum(dim=-1, keepdim=True)
    shares = torch.where(totals == 0, 1 / values.shape[-1], exact / totals)
    return shares.mean(dim=-2).cumsum(-1)
