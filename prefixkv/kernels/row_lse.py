"""Hands the rows' log-sum-exp from an attention call to the scoring of the same queries, so that it is computed once.

One slot in each thread, for the queries of the latest call only; whoever scores other queries finds nothing.
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
    """Keep the log-sum-exp of these queries until it is recalled.

    Args:
        queries: (batch, query_heads, query_len, head_dim).
        lse: (batch, query_heads, query_len), float32, natural logarithm, of the scaled and masked scores.
    """
    _slot.queries, _slot.lse = weakref.ref(queries), lse


def recall(queries: torch.Tensor) -> torch.Tensor | None:
    """The log-sum-exp of exactly these queries, once; None where the latest attention call had others."""
    known, lse = _slot.queries, _slot.lse
    forget()
    return lse if known is not None and known() is queries else None


def forget() -> None:
    """Free what nobody asked for."""
    _slot.queries = _slot.lse = None
