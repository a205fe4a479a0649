"""Ranking in Triton; `prefixkv.kernels.ranking` is its specification. The sort itself is torch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from prefixkv.kernels.ranking import first_ranked as plain_first_ranked
from prefixkv.kernels.ranking import ranking as plain_ranking
from prefixkv.kernels.triton.job_table import job_table
from prefixkv.kernels.triton.selection import LONGEST, warps_for


@triton.jit
def _promote_kernel(sorted_ptr, order_ptr, ranks_ptr, seen_len, sinks, recent, N: tl.constexpr):
    """Move the protected entries to the front and note where each entry is then."""
    row, columns = tl.program_id(0).to(tl.int64) * seen_len, tl.arange(0, N)
    inside = columns < seen_len
    entry = tl.load(sorted_ptr + row + columns, inside, 0)
    is_recent = (inside & (entry >= seen_len - recent)).to(tl.int32)
    is_sink = (inside & (entry < sinks) & (is_recent == 0)).to(tl.int32)
    first = tl.sum(is_recent, axis=0)
    recents, sinks_before = tl.cumsum(is_recent, axis=0), tl.cumsum(is_sink, axis=0)
    # An unprotected entry moves back by the protected ones behind it.
    place = columns + first - recents + tl.sum(is_sink, axis=0) - sinks_before
    place = tl.where(is_sink > 0, first + sinks_before - 1, tl.where(is_recent > 0, recents - 1, place))
    tl.store(order_ptr + row + place, entry, inside)
    tl.store(ranks_ptr + row + entry, place, inside)


@triton.jit
def _first_kernel(table_ptr, N: tl.constexpr):
    """A job is a layer: addresses of its ranks and of their places, its entries, how many stay, and its rows."""
    row, columns, job_ptr = tl.program_id(0), tl.arange(0, N), table_ptr + tl.program_id(1) * 5
    entries, count, rows = tl.load(job_ptr + 2), tl.load(job_ptr + 3), tl.load(job_ptr + 4)
    ranks_ptr = tl.load(job_ptr).to(tl.pointer_type(tl.int32)) + row * entries
    ranks = tl.load(ranks_ptr + columns, (columns < entries) & (row < rows), 0x7FFFFFFF)
    stays = (ranks < count).to(tl.int32)
    place = tl.cumsum(stays, axis=0) - 1
    out_ptr = tl.load(job_ptr + 1).to(tl.pointer_type(tl.int64)) + row * count
    tl.store(out_ptr + place, columns.to(tl.int64), stays > 0)


def ranking(
    importance: torch.Tensor, sink_tokens: int, recent_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the plain twin."""
    seen_len = importance.shape[-1]
    if seen_len > LONGEST:
        return plain_ranking(importance, sink_tokens, recent_tokens)
    # A sort's results lie in memory as what was sorted.
    values, by_importance = importance.contiguous().sort(dim=-1, descending=True, stable=True)
    order, ranks = torch.empty_like(by_importance), torch.empty_like(by_importance, dtype=torch.int32)
    n = max(16, triton.next_power_of_2(seen_len))
    _promote_kernel[(importance.numel() // seen_len,)](
        by_importance, order, ranks, seen_len, sink_tokens, recent_tokens, N=n, num_warps=warps_for(n)
    )
    return values, order, ranks


def first_ranked(ranks: Sequence[torch.Tensor], counts: Sequence[int]) -> list[torch.Tensor]:
    """As the plain twin, in one launch."""
    longest = max(each.shape[2] for each in ranks)
    if longest > LONGEST:
        return plain_first_ranked(ranks, counts)
    ranks = [each.contiguous() for each in ranks]
    found = [
        torch.empty(*each.shape[:2], count, dtype=torch.int64, device=each.device)
        for each, count in zip(ranks, counts, strict=True)
    ]
    rows = [each.shape[0] * each.shape[1] for each in ranks]
    jobs = [
        [each.data_ptr(), places.data_ptr(), each.shape[2], places.shape[2], each_rows]
        for each, places, each_rows in zip(ranks, found, rows, strict=True)
    ]
    n = max(16, triton.next_power_of_2(longest))
    _first_kernel[(max(rows), len(ranks))](job_table(jobs, ranks[0].device), N=n, num_warps=warps_for(n))
    return found
