"""Attention seen from the keys: each key's softmax weights, reduced over the queries, without the matrix.

Two passes over tiles of scores. The first gives every query row's largest score and its sum of exponentials, in
parallel over parts of the keys where there are few queries. The second holds one block of keys, runs over the queries
that see it, and reduces in registers; no atomics, so the result is the same every time. Exponentials are base 2, with
the scale folded into the scores. Largest score and sum stay apart: their logarithm would round what float32 can tell.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from prefixkv.kernels.attention_peak import query_weights

LOG2_E = 1.4426950408889634
_LOG2_E = tl.constexpr(LOG2_E)
ROW_PROGRAMS = 512
"""Programs of the first pass that keep a large GPU busy; with fewer rows, the keys are split."""


@triton.jit
def _scores(q_tile, k_tile, FLOAT32: tl.constexpr):
    """(keys, queries), float32; TF32 would lose what float32 inputs have."""
    if FLOAT32:
        return tl.dot(k_tile, tl.trans(q_tile), input_precision="ieee")
    return tl.dot(k_tile, tl.trans(q_tile))


@triton.jit
def _row_kernel(
    q_ptr, k_ptr, top_ptr, sum_ptr, q_batch, q_head, q_row, k_batch, k_head, k_row,
    query_heads, query_len, key_len, offset, part_len, scale2,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, FLOAT32: tl.constexpr,
):  # fmt: skip
    """top[part, row, i], sum[part, row, i]: over the keys of one part that query i sees; -inf and 0 if none."""
    block, row, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    batch, head = row // query_heads, row % query_heads
    rows, dims = block * M + tl.arange(0, M), tl.arange(0, D)
    in_head = dims[None, :] < HEAD_DIM
    q_base = q_ptr + batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
    k_base = k_ptr + batch.to(tl.int64) * k_batch + (head // GROUP).to(tl.int64) * k_head
    q = tl.load(q_base + rows[:, None].to(tl.int64) * q_row + dims[None, :], (rows[:, None] < query_len) & in_head, 0.0)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    first, last = part * part_len, tl.minimum(part * part_len + part_len, key_len)
    if CAUSAL:
        last = tl.minimum(last, offset + block * M + M)
    for start in range(first, last, N):
        columns = start + tl.arange(0, N)
        k = tl.load(
            k_base + columns[:, None].to(tl.int64) * k_row + dims[None, :], (columns[:, None] < key_len) & in_head, 0.0
        )
        scores = _scores(q, k, FLOAT32) * scale2
        seen = (columns < last)[:, None] & (rows >= 0)[None, :]
        if CAUSAL:
            seen = seen & (columns[:, None] <= offset + rows[None, :])
        scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=0))
        # A row that has seen no key yet has -inf - -inf here.
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp2(top - safe) + tl.sum(tl.exp2(scores - safe[None, :]), axis=0)
        top = new_top
    where = (part * tl.num_programs(1) + row).to(tl.int64) * query_len + rows
    tl.store(top_ptr + where, top, rows < query_len)
    tl.store(sum_ptr + where, total, rows < query_len)


@triton.jit
def _column_kernel(
    q_ptr, k_ptr, top_ptr, sum_ptr, out_ptr, q_batch, q_head, q_row, k_batch, k_head, k_row,
    stat_row, stat_part, kv_heads, query_len, key_len, offset, scale2, own, own_weight, other_weight,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, PEAK: tl.constexpr, FLOAT32: tl.constexpr,
):  # fmt: skip
    """out[0, batch, kv head, j]: sum over the queries and mean over the group, or maximum over both, of the weights.

    With PEAK, out[1, batch, kv head, j] is their mean, in which the first `own` queries have another weight than the
    others. With PARTS = 0, `top` is the natural log-sum-exp and there are no sums.
    """
    block, row = tl.program_id(0), tl.program_id(1)
    batch, kv_head = row // kv_heads, row % kv_heads
    columns, dims = block * N + tl.arange(0, N), tl.arange(0, D)
    in_head = dims[None, :] < HEAD_DIM
    k_base = k_ptr + batch.to(tl.int64) * k_batch + kv_head.to(tl.int64) * k_head
    k = tl.load(
        k_base + columns[:, None].to(tl.int64) * k_row + dims[None, :], (columns[:, None] < key_len) & in_head, 0.0
    )
    first = 0
    if CAUSAL:
        first = tl.maximum(block * N - offset, 0) // M * M
    reduced, mean = tl.zeros([N, M], tl.float32), tl.zeros([N], tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_base = q_ptr + batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
        stats = (row * GROUP + member).to(tl.int64) * stat_row
        for start in range(first, query_len, M):
            rows = start + tl.arange(0, M)
            inside = rows < query_len
            q = tl.load(q_base + rows[:, None].to(tl.int64) * q_row + dims[None, :], inside[:, None] & in_head, 0.0)
            scores = _scores(q, k, FLOAT32) * scale2
            # Rows past the end get no weight: 2 ** -inf.
            if PARTS == 0:
                lse = tl.load(top_ptr + stats + rows, inside, float("inf")) * _LOG2_E
                weights = tl.exp2(scores - lse[None, :])
            else:
                parts = stats + tl.arange(0, PARTS)[:, None] * stat_part + rows[None, :]
                tops = tl.load(top_ptr + parts, inside[None, :], 0.0)
                top = tl.max(tops, axis=0)
                faded = tl.load(sum_ptr + parts, inside[None, :], 1.0) * tl.exp2(tops - top[None, :])
                top = tl.where(inside, top, float("inf"))
                weights = tl.exp2(scores - top[None, :]) * (1.0 / tl.sum(faded, axis=0))[None, :]
            if CAUSAL:
                if start + offset < block * N + N:
                    weights = tl.where(columns[:, None] <= offset + rows[None, :], weights, 0.0)
            if PEAK:
                reduced = tl.maximum(reduced, weights)
                mean += tl.sum(weights * tl.where(rows < own, own_weight, other_weight)[None, :], axis=1)
            else:
                reduced += weights
    result = tl.max(reduced, axis=1) if PEAK else tl.sum(reduced, axis=1) / GROUP
    tl.store(out_ptr + row.to(tl.int64) * key_len + columns, result, columns < key_len)
    if PEAK:
        behind = (tl.num_programs(1) + row).to(tl.int64) * key_len
        tl.store(out_ptr + behind + columns, mean / GROUP, columns < key_len)


def column_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: float,
    *,
    own: int,
    peak: bool,
    row_lse: torch.Tensor | None = None,
    tiles: tuple[int, int, int, int] | None = None,
) -> torch.Tensor:
    """Reduce the softmax weights over the queries.

    Args:
        queries: (batch, query_heads, query_len, head_dim), float16, bfloat16 or float32, any strides but 1 in the last
            dimension.
        keys: (batch, kv_heads, key_len, head_dim), same dtype.
        scale: factor on the dot products.
        own: how many of the queries, the first ones, belong to the last keys: query `i` sees keys
            `0 .. key_len - own + i`. So the others see all.
        peak: maximum over queries and group, and the mean as `prefixkv.kernels.attention_peak` weighs it; otherwise sum
            over queries, mean over the group.
        row_lse: (batch, query_heads, query_len), float32, natural log-sum-exp of every row, where it is known from the
            attention call; the last of longer rows, with strides to match.
        tiles: queries in a tile, keys in a tile, warps and stages of the second pass; chosen where None.

    Returns:
        (1 or, with `peak`, 2, batch, kv_heads, key_len), float32.
    """
    batch, query_heads, query_len, head_dim = queries.shape
    kv_heads, key_len = keys.shape[1:3]
    group, rows = query_heads // kv_heads, batch * query_heads
    queries, keys = (x if x.stride(-1) == 1 else x.contiguous() for x in (queries, keys))
    scale2, float32, offset = scale * LOG2_E, queries.dtype == torch.float32, key_len - own
    dims = max(16, triton.next_power_of_2(head_dim))
    strides = (*queries.stride()[:3], *keys.stride()[:3])
    shape = {"HEAD_DIM": head_dim, "D": dims, "GROUP": group, "CAUSAL": own > 0, "FLOAT32": float32}
    if row_lse is not None:
        top = total = row_lse
        parts, stat_row = 0, row_lse.stride(1)
    else:
        m, n = _row_tiles(query_len, dims, float32)
        blocks, parts, stat_row = triton.cdiv(query_len, m), 1, query_len
        # Many queries keep the GPU busy as they are.
        while parts < 32 and blocks * rows * parts < ROW_PROGRAMS and key_len > parts * 4 * n:
            parts *= 2
        top, total = torch.empty(2, parts, rows, query_len, dtype=torch.float32, device=keys.device)
        part_len = triton.cdiv(triton.cdiv(key_len, parts), n) * n
        _row_kernel[(blocks, rows, parts)](
            queries, keys, top, total, *strides, query_heads, query_len, key_len, offset, part_len, scale2, **shape,
            M=m, N=n, num_warps=4 if m < 128 else 8, num_stages=2,
        )  # fmt: skip
    m, n, warps, stages = tiles or _tiles(query_len, dims, float32)
    out = torch.empty(1 + peak, batch, kv_heads, key_len, dtype=torch.float32, device=keys.device)
    _column_kernel[(triton.cdiv(key_len, n), batch * kv_heads)](
        queries, keys, top, total, out, *strides, stat_row, rows * query_len, kv_heads, query_len, key_len, offset,
        scale2, own, *query_weights(query_len, own), **shape, PARTS=parts, M=m, N=n, PEAK=peak, num_warps=warps,
        num_stages=stages,
    )  # fmt: skip
    return out


def _row_tiles(query_len: int, dims: int, float32: bool) -> tuple[int, int]:
    if query_len <= 16:
        m = 16
    elif query_len <= 64 or float32:
        m = 32
    else:
        m = 64 if query_len <= 256 else 128
    return m, 32 if float32 or dims > 128 else 64


def _tiles(query_len: int, dims: int, float32: bool) -> tuple[int, int, int, int]:
    if float32:
        return 32, 32, 4, 2
    if query_len <= 64:
        return (16 if query_len <= 16 else 32 if query_len <= 32 else 64), 64, 4, 2
    return (64, 128, 4, 3) if dims <= 128 else (64, 64, 4, 2)
