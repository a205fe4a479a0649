"""Gathering: chosen entries of layers, copied or packed into buffers of exactly their number, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import pack


@dataclass(frozen=True)
class Move:
    """What one layer moves.

    Attributes:
        keys: (batch, kv_heads, entries, numbers), any strides but 1 in the last dimension.
        values: same shape and dtype; in plain torch their numbers may be others.
        notes: what is noted of the entries, (batch, heads, entries): positions, int64, and importance, float32; then
            ranks, int32, if there are any. `heads` is `kv_heads`, or 1 where all heads share a choice.
        indices: (batch, heads, count), int64; None for the first entries.
        count: entries that are moved.
    """

    keys: torch.Tensor
    values: torch.Tensor
    notes: tuple[torch.Tensor, ...]
    indices: torch.Tensor | None
    count: int


Moved = tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]
"""Keys and values, (batch, kv_heads, count, numbers or bytes), and the notes, (batch, heads, count), contiguous."""


def gather(moves: Sequence[Move], bits: int | None) -> list[Moved]:
    """Copy the chosen entries of layers that are alike.

    Args:
        moves: of layers that differ at most in their numbers of entries, their strides and their choice.
        bits: one of `PAIRS` to pack keys and values (`prefixkv.kernels.packing`); None to copy them as they are.
    """
    return [_moved(move, bits) for move in moves]


def _moved(move: Move, bits: int | None) -> Moved:
    rows, count = (move.keys, move.values), move.count
    if move.indices is None:
        copies = [part[:, :, :count].clone(memory_format=torch.contiguous_format) for part in rows]
        notes = [note[..., :count].clone(memory_format=torch.contiguous_format) for note in move.notes]
    else:
        copies = [_gathered(part, move.indices) for part in rows]
        notes = [note.gather(-1, move.indices) for note in move.notes]
    keys, values = copies
    if bits is not None:
        keys, values = pack(keys, key_bits(bits)), pack(values, value_bits(bits))
    return keys, values, tuple(notes)


def _gathered(part: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Chosen rows of numbers, each copied as a whole: on a CPU in a third of what `torch.gather` takes.

    Args:
        part: (batch, kv_heads, entries, numbers).
        indices: (batch, kv_heads or 1, count), int64.

    Returns:
        (batch, kv_heads, count, numbers).
    """
    batch, head = (torch.arange(size, device=part.device) for size in part.shape[:2])
    return part[batch[:, None, None], head[:, None], indices]
