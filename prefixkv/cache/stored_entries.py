"""What one layer of the compressed cache stores: the only code that moves or frees keys and values."""

from __future__ import annotations

import math

import torch

from prefixkv.cache.refusals import RefusingLayer
from prefixkv.kernels.dispatch import pack
from prefixkv.kernels.gathering import Move, Moved
from prefixkv.kernels.packed_row import key_bits, pair_of, value_bits
from prefixkv.kernels.packing import STEP_BYTES, unpack


class StoredEntries(RefusingLayer):
    """Keys and values in buffers of their own size, and what is noted of them.

    They may be stored packed (`prefixkv.kernels.packing`): a buffer's rows are bytes then, and what is attended to is
    unpacked beside it.

    Attributes:
        head_dim: elements of a key.
        value_dim: elements of a value; as many where None is given.
        model_dtype: in which the model computes.
        keys: (1, kv_heads, capacity, head_dim) or None; the first `kept_tokens` are in use. Packed, uint8 rows.
        values: same shape, but for the elements of a value, or its bytes.
        positions: (1, heads, capacity), int64, original position of each entry; `heads` is 1 where all kv heads
            share a choice.
        importance: (1, heads, capacity), float32; generated entries have 0.
        ranks: (1, heads, capacity), int32: while a chunk is compacted, which entries stay longest; else None.
        kept_tokens: entries in use.
    """

    def __init__(self, head_dim: int, dtype: torch.dtype, value_dim: int | None = None) -> None:
        super().__init__()
        self.head_dim, self.value_dim, self.model_dtype = head_dim, value_dim or head_dim, dtype
        self.free()

    def free(self) -> None:
        """Free the buffers."""
        self.keys = self.values = None
        self.positions: torch.Tensor | None = None
        self.importance: torch.Tensor | None = None
        self.ranks: torch.Tensor | None = None
        self.kept_tokens = 0

    @property
    def device(self) -> torch.device:
        """Where the entries are that the layer has taken in."""
        assert self.positions is not None
        return self.positions.device

    def follow(self, device: torch.device) -> None:
        """Bring what is stored to where the layer computes: of a model on several devices that is known only then."""
        if self.positions is None or self.device == device:
            return
        for name in ("keys", "values", "positions", "importance"):
            setattr(self, name, getattr(self, name).to(device))

    @property
    def kept_positions(self) -> torch.Tensor:
        """Original positions of the entries, (1, heads, kept_tokens), int64, in the order of the buffer."""
        if self.positions is None:
            return torch.empty(1, 1, 0, dtype=torch.int64)
        return self.positions[..., : self.kept_tokens]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that the layer holds: buffers, and what is noted of their entries."""
        held = (self.keys, self.values, self.positions, self.importance, self.ranks)
        return [tensor for tensor in held if tensor is not None]

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry's key and value in all heads."""
        buffers = [tensor for tensor in (self.keys, self.values) if tensor is not None]
        return sum(math.prod(tensor.shape[:2]) * tensor.shape[3] * tensor.element_size() for tensor in buffers)

    @property
    def bits(self) -> int | None:
        """Bits in which an entry is stored, one of `PAIRS`; None for the model's own precision."""
        if self.keys is None or self.values is None or self.keys.dtype != torch.uint8:
            return None
        key, value = ((part.shape[3] - STEP_BYTES) * 8 for part in (self.keys, self.values))
        return pair_of(key // self.head_dim, value // self.value_dim)

    @property
    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of keys and values as they are stored, (1, kv_heads, kept_tokens, head_dim) or packed_size."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys[:, :, : self.kept_tokens], self.values[:, :, : self.kept_tokens]

    @property
    def entries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all stored entries, (1, kv_heads, kept_tokens, head_dim); views where not packed."""
        (keys, values), bits = self.stored, self.bits
        if bits is None:
            return keys, values
        return unpack(keys, key_bits(bits), self.model_dtype), unpack(values, value_bits(bits), self.model_dtype)

    def put(self, slot: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int) -> None:
        """Store one entry in place.

        Args:
            slot: (1,), int64, of the buffers.
            keys: (1, kv_heads, 1, head_dim), after RoPE; or packed already, as the entries are.
            values: same shape.
            position: of its token.
        """
        assert self.keys is not None
        assert self.values is not None
        assert self.positions is not None
        assert self.importance is not None
        if keys.dtype != self.keys.dtype and self.bits is not None:
            keys, values = packed_pair(keys, values, self.bits)
        self.keys.index_copy_(2, slot, keys)
        self.values.index_copy_(2, slot, values)
        self.positions.index_fill_(2, slot, position)
        self.importance.index_fill_(2, slot, 0.0)

    def repack(self, bits: int) -> None:
        """Store the entries in other bits, or packed for the first time."""
        self.keys, self.values = packed_pair(*self.entries, bits)

    def move(self, rows: tuple[torch.Tensor, torch.Tensor] | None, indices: torch.Tensor | None, count: int) -> Move:
        """What is to be done to store chosen entries in buffers of exactly their number.

        Args:
            rows: keys and values, (1, kv_heads, entries, head_dim) or packed rows; None for the stored ones. The
                notes are of the same entries.
            indices: (1, heads, count), int64, in the order of storage; None for the first ones.
            count: entries.
        """
        keys, values = rows or (self.keys, self.values)
        assert keys is not None
        assert values is not None
        assert self.positions is not None
        assert self.importance is not None
        notes = (self.positions, self.importance)
        return Move(keys, values, notes if self.ranks is None else (*notes, self.ranks), indices, count)

    def fill(self, moved: Moved) -> None:
        """Take the new buffers."""
        self.keys, self.values, (self.positions, self.importance, *ranks) = moved
        self.ranks = ranks[0] if ranks else None
        self.kept_tokens = moved[0].shape[2]

    def _grow(self, capacity: int) -> None:
        for name in ("keys", "values", "positions", "importance"):
            old = getattr(self, name)
            dim = 2
            new = old.new_empty(*old.shape[:dim], capacity, *old.shape[dim + 1 :])
            new[:, :, : self.kept_tokens] = old[:, :, : self.kept_tokens]
            setattr(self, name, new)


def packed_pair(keys: torch.Tensor, values: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pack keys and values, in one call where their rows are alike.

    Args:
        keys: (rows, kv_heads, entries, head_dim), any float dtype.
        values: likewise.
        bits: one of `PAIRS`.
    """
    of_keys, of_values = key_bits(bits), value_bits(bits)
    if keys.shape == values.shape and of_keys == of_values:
        packed_keys, packed_values = pack(torch.cat([keys, values]), of_keys).chunk(2)
        return packed_keys, packed_values
    return pack(keys, of_keys), pack(values, of_values)
