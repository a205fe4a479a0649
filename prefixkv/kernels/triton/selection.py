"""Selection in Triton; `prefixkv.kernels.selection` is its specification.

Nothing is sorted: the importance of the last entry that stays is found bit by bit, by counting who reaches it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from prefixkv.kernels.selection import selection as plain_selection

LONGEST = 32768
"""A row is held by one program, so it must not be longer."""


@triton.jit
def _selection_kernel(x_ptr, out_ptr, x_row, seen_len, kept_len, sinks, recent, N: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    inside = columns < seen_len
    # Adding 0 makes -0 and 0 the same number, as they are in a comparison.
    x = tl.load(x_ptr + row * x_row + columns, inside, 0.0) + 0.0
    bits = x.to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    lowest = -0x7FFFFFFF - 1
    key = tl.where((columns < sinks) | (columns >= seen_len - recent), 0x7FFFFFFF, key)
    key = tl.where(inside, key, lowest)
    threshold = tl.where(tl.sum((key >= 0).to(tl.int32), axis=0) >= kept_len, 0, lowest)
    for bit in range(31):
        candidate = threshold + (1 << (30 - bit))
        threshold = tl.where(tl.sum((key >= candidate).to(tl.int32), axis=0) >= kept_len, candidate, threshold)
    above = (key > threshold).to(tl.int32)
    equal = ((key == threshold) & inside).to(tl.int32)
    missing = kept_len - tl.sum(above, axis=0)
    chosen = above + equal * (tl.cumsum(equal, axis=0) <= missing).to(tl.int32)
    place = tl.cumsum(chosen, axis=0) - 1
    tl.store(out_ptr + row * kept_len + place, columns.to(tl.int64), chosen > 0)


def warps_for(columns: int) -> int:
    """Warps that hold a row of so many numbers in registers."""
    return 4 if columns <= 1024 else 8 if columns <= 4096 else 16


def selection(importance: torch.Tensor, kept_len: int, sink_tokens: int, recent_tokens: int) -> torch.Tensor:
    """As the plain twin."""
    *leading, seen_len = importance.shape
    if seen_len > LONGEST:
        return plain_selection(importance, kept_len, sink_tokens, recent_tokens)
    rows = importance.float().reshape(-1, seen_len)
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    out = torch.empty(*leading, kept_len, dtype=torch.int64, device=importance.device)
    n = max(16, triton.next_power_of_2(seen_len))
    _selection_kernel[(rows.shape[0],)](
        rows, out, rows.stride(0), seen_len, kept_len, sink_tokens, recent_tokens, N=n,
        num_warps=warps_for(n),
    )  # fmt: skip
    return out
