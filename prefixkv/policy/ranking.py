"""Ranking: in which order a layer's entries are given up, and what they bear together. Knows nothing of caches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prefixkv.kernels.dispatch import curve, ranking


@dataclass(frozen=True)
class Ranking:
    """One sort of the importance of a layer, or of several, from which both shares and choices follow.

    Attributes:
        order: (batch, heads, seen_len), int64: the entries, first those that go last.
        ranks: same shape, int32: each entry's place in that order.
        values: (batch * heads, seen_len), float32: the importance from the highest to the lowest. Where layers are
            ranked together, the batch is theirs, one layer after the other.
    """

    order: torch.Tensor
    ranks: torch.Tensor
    values: torch.Tensor

    def curves(self, layers: int = 1) -> torch.Tensor:
        """See `prefixkv.kernels.curve`.

        Args:
            layers: that were ranked together.
        """
        return curve(self.values.unflatten(0, (layers, -1)))


def rank(importance: torch.Tensor, sink_tokens: int, recent_tokens: int) -> Ranking:
    """Rank the entries: the newest protected ones, the first ones, then the others by importance.

    The first entries of the order, as many as a layer keeps, are those that `select` takes. Stored in this order, a
    layer shrinks from its end, and decoding evicts by slot whatever each head has there.

    Args:
        importance: (batch, heads, seen_len), float; `heads` = 1 where all heads share a choice. Not written to.
        sink_tokens: first entries that are always kept.
        recent_tokens: last entries that are always kept.
    """
    rows = importance.float().reshape(-1, importance.shape[-1])
    values, order, ranks = ranking(rows, sink_tokens, recent_tokens)
    return Ranking(order.reshape(importance.shape), ranks.reshape(importance.shape), values)
