"""Hands the rows' log-sum-exp from an attention call to the scoring of the same queries, so that it is computed once.

One slot in each thread, for the queries of the latest call only; whoever scores other queries finds nothing. It is
emptied when the scoring of the call is done.
"""

from __future__ import annotations

import threading
import weakref

import torch


class _Slot(threading.local):
    queries: weakref.ref[torch.Tensor] | None = None
    lse: torch.Tensor | None = None


_slot = _Slot()


def remember(queries: torch.Tensor, lse: torch.Tensor) -> None:
    """Keep the log-sum-exp of these queries until it is forgotten.

    Args:
        queries: (batch, query_heads, query_len, head_dim).
        lse: (batch, query_heads, query_len), float32, natural logarithm, of the scaled and masked scores.
    """
    _slot.queries, _slot.lse = weakref.ref(queries), lse


def recall(queries: torch.Tensor) -> torch.Tensor | None:
    """The log-sum-exp of exactly these queries, or of these if they are the last ones of the latest attention call.

    Args:
        queries: what the call was given, or a view of its last queries.

    Returns:
        (batch, query_heads, count), float32; None where the latest call had others.
    """
    known, lse = None if _slot.queries is None else _slot.queries(), _slot.lse
    if known is None or lse is None:
        return None
    count = queries.shape[2]
    last = known[:, :, known.shape[2] - count :]
    is_last = (queries.shape, queries.stride(), queries.data_ptr()) == (last.shape, last.stride(), last.data_ptr())
    return lse[:, :, lse.shape[2] - count :] if is_last else None


def forget() -> None:
    """Free what nobody asked for."""
    _slot.queries = _slot.lse = None
