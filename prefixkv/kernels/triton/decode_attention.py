"""Decode attention in Triton; `prefixkv.kernels.decode_attention` is its specification.

The stored entries of a head are split between programs, so that one row fills the GPU too; a second small kernel joins
the parts. Everything is found through the table, so that the launches are the same whatever rows there are, however
long they are and wherever they lie. Each precision has a launch, which passes over the rows of other precisions; so has
that of fine runs, whose splits come behind the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from prefixkv.kernels.entry_table import FINE, WHOLE_BITS, EntryTable
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import NORMAL_STEPS
from prefixkv.kernels.triton.column_attention import LOG2_E
from prefixkv.kernels.triton.joined_splits import join_kernel
from prefixkv.kernels.triton.packed_splits import attend_packed_kernel
from prefixkv.kernels.triton.whole_splits import attend_whole_kernel

PROGRAMS = 528
"""Four for each multiprocessor of an H100: fewer splits than that leave it idle, more only have to be joined."""
PACKED_WARPS = 2112
"""Sixteen for each multiprocessor, half as many of 8 bits, which need more registers: a packed program is one
warp, or few."""
ROOM, SOME_SPLITS = 4, 8
"""Where fewer than `SOME_SPLITS` fill the GPU, there is room for so many times more programs, up to these splits, as a
row that is longer than the others needs them: short rows leave them alone, and an idle program ends at once."""
MAX_SPLITS = 64

ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def decode_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cosine: torch.Tensor | None,
    sine: torch.Tensor | None,
    scale: float,
    table: EntryTable,
    layer: int,
    formats: Sequence[int] = (WHOLE_BITS,),
    softcap: float | None = None,
) -> torch.Tensor:
    """As the plain twin; packed entries are taken for heads of 32, 64, 128, ... numbers."""
    query, key, value = (x if x[0].is_contiguous() else x.contiguous() for x in (query, key, value))
    rows, query_heads, head_dim = query.shape
    kv_heads = key.shape[1]
    group, cells, heads = query_heads // kv_heads, table.cells[layer], rows * query_heads
    packed = [bits for bits in formats if bits != WHOLE_BITS]
    tiles = {kind: _tiles(kind % FINE, head_dim, group, query.dtype) for kind in formats}
    filling = {kind: _splits(rows * kv_heads, kind % FINE, tiles[kind][2]) for kind in formats}
    splits = max(filling[kind] for kind in formats if kind < FINE)
    fine_splits = max((filling[kind] for kind in formats if kind >= FINE), default=0)
    if WHOLE_BITS in formats:
        splits = max(splits, _splits(rows * kv_heads, WHOLE_BITS, tiles[WHOLE_BITS][2], ROOM))
    alone = splits == 1 and not packed
    out = torch.empty(rows, query_heads, head_dim, dtype=query.dtype, device=query.device)
    partial = lse = out
    if not alone:
        partial = torch.empty(splits + fine_splits, heads, head_dim, dtype=torch.float32, device=query.device)
        lse = torch.empty(splits + fine_splits, heads, dtype=torch.float32, device=query.device)
    rotates = cosine is not None and sine is not None
    cosine, sine = (cosine, sine) if cosine is not None and sine is not None else (query, query)
    arguments = (
        query, key, value, cosine, sine, cells, partial, lse,
        query.stride(0), key.stride(0), value.stride(0), cosine.stride(0), cells.stride(0), kv_heads,
        scale * LOG2_E, (softcap or 1.0) * LOG2_E,
    )  # fmt: skip
    for kind in formats:
        is_fine, bits = kind >= FINE, kind % FINE
        entries, members, warps, limits = tiles[kind]
        shape: dict[str, Any] = {
            "GROUP": group, "G": members, "N": entries, "DTYPE": ELEMENTS[query.dtype], "ROTATES": rotates,
            "CAPPED": softcap is not None, "LEAST": max(1, SOME_SPLITS // filling[kind]), "num_warps": warps, **limits,
        }  # fmt: skip
        if bits == WHOLE_BITS:
            dims = max(16, triton.next_power_of_2(head_dim))
            attend_whole_kernel[(splits, rows * kv_heads)](
                *arguments, HEAD_DIM=head_dim, D=dims, ALONE=alone, STAGES=2, **shape
            )
        else:
            attend_packed_kernel[(fine_splits if is_fine else splits, rows * kv_heads)](
                *arguments, D=head_dim, BITS=bits, KEY_BITS=key_bits(bits), VALUE_BITS=value_bits(bits),
                KEY_STEP=NORMAL_STEPS.get(key_bits(bits), 0.0), VALUE_STEP=NORMAL_STEPS.get(value_bits(bits), 0.0),
                FIRST=splits if is_fine else 0, FINE=is_fine, ASSEMBLY=_has_assembly(), **shape,
            )  # fmt: skip
    if not alone:
        join_kernel[(heads,)](
            partial, lse, cells, out, cells.stride(0), query_heads,
            HEAD_DIM=head_dim, D=max(16, triton.next_power_of_2(head_dim)), PACKED=bool(packed),
            SPLITS=triton.next_power_of_2(splits + fine_splits), FIRST=splits, FINE=fine_splits,
            num_warps=4 if splits + fine_splits > 32 else 2,
        )  # fmt: skip
    return out


def _tiles(bits: int, head_dim: int, group: int, dtype: torch.dtype) -> tuple[int, int, int, dict[str, int]]:
    """Entries in a block, places for members of a group, warps, and the limit of registers, if there is to be one.

    Fewer registers of a thread let more programs run.
    """
    if bits == WHOLE_BITS:
        entries = 64 if dtype != torch.float32 and head_dim <= 128 else 32
        return entries, max(16, triton.next_power_of_2(group)), 4, {}
    # Keys have at least as many words as values.
    members, words = max(8, triton.next_power_of_2(group)), head_dim * key_bits(bits) // 16
    if dtype == torch.float32:
        return 32 if words <= 32 else 16, members, 4, {}
    if words <= 64 and members == 8:
        return 32 if words < 32 else 16, members, 1, {"maxnreg": 128 if words <= 32 else 168}
    if words <= 64 and members <= 16:
        return 32 if group == 1 else 16, members, 1, {}
    return 32, members, 4, {}


def _splits(kv_rows: int, bits: int, warps: int, room: int = 1) -> int:
    """Parts into which the entries of each of so many kv heads are split, a power of two that fills the GPU.

    With more `room`, so many times as many programs, but no more than `SOME_SPLITS` for each head.
    """
    programs = PROGRAMS if bits == WHOLE_BITS else PACKED_WARPS // (warps * (2 if key_bits(bits) == 8 else 1))
    programs, splits = room * programs, 1
    while splits < (MAX_SPLITS if room == 1 else SOME_SPLITS) and kv_rows * splits * 2 <= programs:
        splits *= 2
    return splits


def _has_assembly() -> bool:
    """Whether kernels are compiled for Nvidia's devices, and not interpreted."""
    return isinstance(attend_packed_kernel, triton.JITFunction) and torch.version.hip is None
