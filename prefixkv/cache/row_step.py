"""Steps of several rows on the CPU: entries of all rows are packed in one call, and one attention call reads many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.row import CacheRow
from prefixkv.cache.stored_entries import packed_pair
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import turn, unpack_turned

BLOCK_BYTES = 2 * 2**20
"""Keys and values that are read at once, of one row at least: about what a core's cache holds."""


class RowSteps:
    """Has rows attend together in steps that read one token of each."""

    def __init__(self) -> None:
        """Begin without working copies, which are then used again by all layers and steps."""
        self._copy, self._packed = torch.empty(0), torch.empty(0, dtype=torch.uint8)

    def can_attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether `attend` takes these: a GPU has a captured step, and only float32 queries may be turned."""
        return query.device.type == "cpu" and query.dtype == torch.float32 and key.shape == value.shape

    def attend(
        self,
        rows: Sequence[CacheRow],
        place: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Have every row store its new entry in one layer, and attend to all entries that it has there.

        Args:
            rows: each has read a prompt.
            place: the layer, among all decoder layers; no window layer.
            query: (rows, query_heads, 1, head_dim), float32, after RoPE.
            key: (rows, kv_heads, 1, head_dim), likewise.
            value: same shape.
            scale: factor on the dot products.

        Returns:
            (rows, 1, query_heads, head_dim).
        """
        count, kv_heads, _, head_dim = key.shape
        stored: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {None: (key, value)}
        stored |= {bits: packed_pair(key, value, bits) for bits in {row.bits for row in rows} if bits is not None}
        layers = []
        for index, row in enumerate(rows):
            keys, values = stored[row.bits]
            layers.append(row.store_step(keys[index : index + 1], values[index : index + 1], place))
        # The heads of a group ask the same keys: they stand for several queries of one head.
        queries = _turned(query, layers).reshape(count, kv_heads, -1, head_dim)
        longest = max(layer.stored_tokens for layer in layers)
        together = max(1, BLOCK_BYTES // (2 * longest * kv_heads * head_dim * query.element_size()))
        outputs = [
            self._attend(layers[start : start + together], queries[start : start + together], scale)
            for start in range(0, count, together)
        ]
        return _turned(torch.cat(outputs).reshape(query.shape), layers).transpose(1, 2)

    def _attend(self, layers: Sequence[CompressedLayer], queries: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend to what some rows have stored, which is read into the working copy, padded to the longest."""
        count, kv_heads, _, head_dim = queries.shape
        lengths = [layer.stored_tokens for layer in layers]
        shape = (2, count, kv_heads, max(lengths), head_dim)
        size = 2 * count * kv_heads * max(lengths) * head_dim
        if self._copy.numel() < size:
            self._copy = queries.new_empty(size)
        copy = self._copy[:size].view(shape)
        bits = layers[0].bits
        if bits is not None and all(layer.bits == bits and layer.is_one_run for layer in layers):
            self._unpack(layers, lengths, bits, copy)
        else:
            for index, (layer, length) in enumerate(zip(layers, lengths, strict=True)):
                layer.read_into(copy[:, index, :, :length])
                copy[:, index, :, length:] = 0
        seen = None
        if min(lengths) < max(lengths):
            seen = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None, None, None]
        return torch.nn.functional.scaled_dot_product_attention(queries, copy[0], copy[1], seen, scale=scale)

    def _unpack(self, layers: Sequence[CompressedLayer], lengths: Sequence[int], bits: int, copy: torch.Tensor) -> None:
        """Read what some rows have stored in the same bits: their bytes are brought together and unpacked by one call.

        Args:
            layers: one of each row; entries are read turned.
            lengths: entries of each.
            bits: in which they are stored.
            copy: (2, rows, kv_heads, entries, head_dim), float32: keys and values; 0 behind a row's last entry.
        """
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        if key_bits(bits) == value_bits(bits):
            # Rows of keys and of values are alike: a row's keys come before all values.
            self._unpack_parts([*keys, *values], [*lengths, *lengths], bits, copy.flatten(0, 1))
            return
        self._unpack_parts(keys, lengths, key_bits(bits), copy[0])
        self._unpack_parts(values, lengths, value_bits(bits), copy[1])

    def _unpack_parts(
        self, buffers: Sequence[torch.Tensor | None], lengths: Sequence[int], bits: int, copy: torch.Tensor
    ) -> None:
        assert buffers[0] is not None
        shape = (*copy.shape[:-1], buffers[0].shape[-1])
        size = math.prod(shape)
        if self._packed.numel() < size:
            self._packed = self._packed.new_empty(size)
        packed = self._packed[:size].view(shape)
        for part, buffer, length in zip(packed, buffers, lengths, strict=True):
            assert buffer is not None
            part[:, :length] = buffer[0, :, :length]
            if length < part.shape[1]:
                # A step of 0: whatever the codes are, the vector is 0.
                part[:, length:] = 0
        unpack_turned(packed, bits, copy.dtype, copy)


def _turned(vectors: torch.Tensor, layers: Sequence[CompressedLayer]) -> torch.Tensor:
    """Vectors, (rows, heads, 1, head_dim), turned, or turned back, in the rows whose entries are read turned."""
    flags = [layer.is_read_turned for layer in layers]
    if not any(flags):
        return vectors
    return (
        turn(vectors) if all(flags) else torch.where(torch.tensor(flags)[:, None, None, None], turn(vectors), vectors)
    )
