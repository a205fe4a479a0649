"""Gathering in Triton, all buffers of several layers in one launch; `prefixkv.kernels.gathering` is its specification.

What differs from layer to layer, addresses, strides and numbers of entries, is read from a table on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import triton
import triton.language as tl

from prefixkv.kernels.gathering import Move, Moved
from prefixkv.kernels.gathering import gather as plain_gather
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import NORMAL_STEPS, packed_size
from prefixkv.kernels.triton.hadamard import SMALLEST_HEAD, hadamard_rows
from prefixkv.kernels.triton.job_table import job_table
from prefixkv.kernels.triton.packed_rows import packed_rows, store_packed_rows
from prefixkv.kernels.triton.packing import NUMBERS

COPY_BLOCK = 32
"""Entries that one program copies."""
FIELDS = 24
"""Numbers of a table's row: addresses from and to (keys, values, positions, importance, ranks), of the choice; the
count; strides of keys and values (batch, head, entry), and of positions, notes and choice (batch, head)."""
VECTOR_BYTES = 16


@triton.jit
def _find(job_ptr, row, kv_heads, block, M: tl.constexpr, INDEXED: tl.constexpr):
    """Batch row, head, entries of this program, which of them there are, and where they come from."""
    batch, head = (row // kv_heads).to(tl.int64), (row % kv_heads).to(tl.int64)
    entries = block * M + tl.arange(0, M)
    inside = entries < tl.load(job_ptr + 11)
    if INDEXED:
        indices = tl.load(job_ptr + 10).to(tl.pointer_type(tl.int64))
        start = batch * tl.load(job_ptr + 22) + head * tl.load(job_ptr + 23)
        source = tl.load(indices + start + entries, inside, 0)
    else:
        source = entries.to(tl.int64)
    return batch, head, entries, inside, source


@triton.jit
def _part(job_ptr, batch, head, part, DTYPE: tl.constexpr, VECTOR: tl.constexpr):
    """Where a head's keys (part 0) or values (1) begin, and how far its entries are apart."""
    strides = job_ptr + 12 + 3 * part
    offset = batch * tl.load(strides) + head * tl.load(strides + 1)
    stride = tl.load(strides + 2)
    base = tl.load(job_ptr + part).to(tl.pointer_type(DTYPE))
    if VECTOR > 1:
        base, offset = tl.multiple_of(base, 16), tl.multiple_of(offset, VECTOR)
        stride = tl.multiple_of(stride, VECTOR)
    return base + offset, stride


@triton.jit
def _copy_notes(job_ptr, batch, head, heads, entries, inside, source, RANKED: tl.constexpr):
    place = (batch * heads + head) * tl.load(job_ptr + 11) + entries
    positions = tl.load(job_ptr + 4).to(tl.pointer_type(tl.int64)) + batch * tl.load(job_ptr + 18)
    position = tl.load(positions + head * tl.load(job_ptr + 19) + source, inside)
    tl.store(tl.load(job_ptr + 7).to(tl.pointer_type(tl.int64)) + place, position, inside)
    noted = batch * tl.load(job_ptr + 20) + head * tl.load(job_ptr + 21) + source
    importance = tl.load(tl.load(job_ptr + 5).to(tl.pointer_type(tl.float32)) + noted, inside)
    tl.store(tl.load(job_ptr + 8).to(tl.pointer_type(tl.float32)) + place, importance, inside)
    if RANKED:
        rank = tl.load(tl.load(job_ptr + 6).to(tl.pointer_type(tl.int32)) + noted, inside)
        tl.store(tl.load(job_ptr + 9).to(tl.pointer_type(tl.int32)) + place, rank, inside)


@triton.jit
def _copy_kernel(
    table_ptr, kv_heads, heads,
    FIELDS: tl.constexpr, NUMBERS: tl.constexpr, D: tl.constexpr, M: tl.constexpr, DTYPE: tl.constexpr,
    VECTOR: tl.constexpr, INDEXED: tl.constexpr, RANKED: tl.constexpr,
):  # fmt: skip
    block, row, job_ptr = tl.program_id(0), tl.program_id(1), table_ptr + tl.program_id(2) * FIELDS
    count = tl.load(job_ptr + 11)
    if block * M < count:
        batch, head, entries, inside, source = _find(job_ptr, row, kv_heads, block, M, INDEXED)
        numbers = tl.arange(0, D)
        mask = inside[:, None] & (numbers < NUMBERS)[None, :]
        target = (row * count + entries)[:, None] * NUMBERS + numbers[None, :]
        keys, key_stride = _part(job_ptr, batch, head, 0, DTYPE, VECTOR)
        values, value_stride = _part(job_ptr, batch, head, 1, DTYPE, VECTOR)
        key = tl.load(keys + source[:, None] * key_stride + numbers[None, :], mask)
        value = tl.load(values + source[:, None] * value_stride + numbers[None, :], mask)
        key_out = tl.load(job_ptr + 2).to(tl.pointer_type(DTYPE))
        value_out = tl.load(job_ptr + 3).to(tl.pointer_type(DTYPE))
        if VECTOR > 1:
            key_out, value_out = tl.multiple_of(key_out, 16), tl.multiple_of(value_out, 16)
        tl.store(key_out + target, key, mask)
        tl.store(value_out + target, value, mask)
        if head < heads:
            _copy_notes(job_ptr, batch, head, heads, entries, inside, source, RANKED)


@triton.jit
def _pack_kernel(
    table_ptr, kv_heads, heads,
    FIELDS: tl.constexpr, D: tl.constexpr, M: tl.constexpr, DTYPE: tl.constexpr, VECTOR: tl.constexpr,
    INDEXED: tl.constexpr, RANKED: tl.constexpr, BITS: tl.constexpr, STEP: tl.constexpr, ROW: tl.constexpr,
    FIRST: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """`PARTS` parts from `FIRST` on, keys (0) and values (1), alternate in the first axis of the grid."""
    block, part, row = tl.program_id(0) // PARTS, FIRST + tl.program_id(0) % PARTS, tl.program_id(1)
    job_ptr = table_ptr + tl.program_id(2) * FIELDS
    count = tl.load(job_ptr + 11)
    if block * M < count:
        batch, head, entries, inside, source = _find(job_ptr, row, kv_heads, block, M, INDEXED)
        dims = tl.arange(0, D)
        vectors, stride = _part(job_ptr, batch, head, part, DTYPE, VECTOR)
        x = tl.load(vectors + source[:, None] * stride + dims[None, :], inside[:, None] & (dims >= 0)[None, :], 0.0)
        codes, step = packed_rows(hadamard_rows(x.to(tl.float32), M, D), M, D, BITS, STEP)
        out = tl.load(job_ptr + 2 + part).to(tl.pointer_type(tl.uint8))
        store_packed_rows(out + (row * count + entries) * ROW, codes, step, inside, D, BITS)
        if (part == 0) & (head < heads):
            _copy_notes(job_ptr, batch, head, heads, entries, inside, source, RANKED)


def gather(moves: Sequence[Move], bits: int | None) -> list[Moved]:
    """As the plain twin; packed for heads of 32, 64, 128, ..., where numbers between two steps may differ."""
    numbers = moves[0].keys.shape[-1]
    if bits is not None and (numbers < SMALLEST_HEAD or numbers & (numbers - 1)):
        return plain_gather(moves, bits)
    if not all(map(_is_usual, moves)) or len(set(map(_heads, moves))) > 1:
        return plain_gather(moves, bits)
    if moves[0].keys.dtype == torch.uint8:
        if any(_is_odd(part) for move in moves for part in (move.keys, move.values)):
            return plain_gather(moves, bits)
        # Fewer numbers are moved, if they are pairs of bytes.
        pairs = [
            replace(move, keys=move.keys.view(torch.int16), values=move.values.view(torch.int16)) for move in moves
        ]
        moved = gather(pairs, None)
        return [(keys.view(torch.uint8), values.view(torch.uint8), notes) for keys, values, notes in moved]
    first = moves[0]
    batch, kv_heads, heads = *first.keys.shape[:2], first.notes[0].shape[1]
    sizes = (numbers, numbers)
    if bits is not None:
        sizes = packed_size(numbers, key_bits(bits)), packed_size(numbers, value_bits(bits))
    moved = [_room(move, sizes, first.keys.dtype if bits is None else torch.uint8) for move in moves]
    table = job_table([_row(*pair) for pair in zip(moves, moved, strict=True)], first.keys.device)
    shape = {
        "FIELDS": FIELDS, "DTYPE": _DTYPES[first.keys.dtype], "VECTOR": _vector(moves),
        "INDEXED": first.indices is not None, "RANKED": len(first.notes) > 2,
    }  # fmt: skip
    longest = max(move.count for move in moves)
    if bits is None:
        _copy_kernel[(triton.cdiv(longest, COPY_BLOCK), batch * kv_heads, len(moves))](
            table, kv_heads, heads, NUMBERS=numbers, D=triton.next_power_of_2(numbers), M=COPY_BLOCK, num_warps=4,
            **shape,
        )  # fmt: skip
    else:
        together, of_keys, of_values = NUMBERS // numbers, key_bits(bits), value_bits(bits)
        # One launch where keys and values are packed alike.
        launches = [(0, 2, of_keys)] if of_keys == of_values else [(0, 1, of_keys), (1, 1, of_values)]
        for part, parts, each in launches:
            _pack_kernel[(parts * triton.cdiv(longest, together), batch * kv_heads, len(moves))](
                table, kv_heads, heads, D=numbers, M=together, num_warps=4, BITS=each,
                STEP=NORMAL_STEPS.get(each, 0.0), ROW=sizes[part], FIRST=part, PARTS=parts, **shape,
            )  # fmt: skip
    return moved


_DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.int16: tl.int16,
}


def _is_usual(move: Move) -> bool:
    """Whether the strides are such as the kernels follow."""
    parts = (move.keys, move.values, *move.notes, *(() if move.indices is None else (move.indices,)))
    return (
        move.count > 0
        and all(part.stride(-1) == 1 for part in parts)
        and all(note.stride() == move.notes[1].stride() for note in move.notes[2:])
    )


def _heads(move: Move) -> tuple[int, ...]:
    """Batch rows and heads, one number for all layers of a launch."""
    return (*move.keys.shape[:2], move.notes[0].shape[1])


def _is_odd(part: torch.Tensor) -> bool:
    return any(number % 2 for number in (part.shape[-1], part.storage_offset(), *part.stride()[:3]))


def _room(move: Move, sizes: tuple[int, int], dtype: torch.dtype) -> Moved:
    batch, kv_heads = move.keys.shape[:2]
    device, heads = move.keys.device, move.notes[0].shape[1]
    keys, values = (torch.empty(batch, kv_heads, move.count, size, dtype=dtype, device=device) for size in sizes)
    notes = [torch.empty(batch, heads, move.count, dtype=note.dtype, device=device) for note in move.notes]
    return keys, values, tuple(notes)


def _row(move: Move, moved: Moved) -> list[int]:
    """A row of the table; where there are no ranks or no choice, nobody reads theirs."""
    notes, new_notes, indices = move.notes, moved[2], move.indices
    source = [move.keys, move.values]
    target = [moved[0], moved[1]]
    return [
        *(part.data_ptr() for part in source),
        *(part.data_ptr() for part in target),
        *(note.data_ptr() for note in (*notes, notes[0])[:3]),
        *(note.data_ptr() for note in (*new_notes, notes[0])[:3]),
        0 if indices is None else indices.data_ptr(),
        move.count,
        *move.keys.stride()[:3],
        *move.values.stride()[:3],
        *notes[0].stride()[:2],
        *notes[1].stride()[:2],
        # One choice for all heads is read by each.
        *((0, 0) if indices is None else (indices.stride(0), indices.stride(1) * (indices.shape[1] > 1))),
    ]


def _vector(moves: Sequence[Move]) -> int:
    """Numbers that may be moved at once, as addresses and strides allow; 1 where they allow no more."""
    parts = [part for move in moves for part in (move.keys, move.values)]
    numbers = VECTOR_BYTES // parts[0].element_size()
    fits = all(
        part.data_ptr() % VECTOR_BYTES == 0 and not any(s % numbers for s in (part.shape[-1], *part.stride()[:3]))
        for part in parts
    )
    return numbers if fits else 1
