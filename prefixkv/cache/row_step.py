"""Steps of several rows on the CPU: entries of all rows are packed in one call, and one attention call reads many."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.row import CacheRow
from prefixkv.kernels.dispatch import pack
from prefixkv.kernels.packing import turn

BLOCK_BYTES = 2 * 2**20
"""Keys and values that are read at once, of one row at least: about what a core's cache holds."""


class RowSteps:
    """Has rows attend together in steps that read one token of each."""

    def __init__(self) -> None:
        """Begin without a working copy, which is then used again by all layers and steps."""
        self._copy = torch.empty(0)

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
        new = torch.cat([key, value])
        packed = {bits: pack(new, bits) for bits in {row.bits for row in rows} if bits is not None}
        layers = []
        for index, row in enumerate(rows):
            stored = new if row.bits is None else packed[row.bits]
            layers.append(row.store_step(stored[index : index + 1], stored[count + index :][:1], place))
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
        for index, (layer, length) in enumerate(zip(layers, lengths, strict=True)):
            layer.read_into(copy[:, index, :, :length])
            copy[:, index, :, length:] = 0
        seen = None
        if min(lengths) < max(lengths):
            seen = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None, None, None]
        return torch.nn.functional.scaled_dot_product_attention(queries, copy[0], copy[1], seen, scale=scale)


def _turned(vectors: torch.Tensor, layers: Sequence[CompressedLayer]) -> torch.Tensor:
    """Vectors, (rows, heads, 1, head_dim), turned, or turned back, in the rows whose entries are read turned."""
    flags = [layer.is_read_turned for layer in layers]
    if not any(flags):
        return vectors
    return (
        turn(vectors) if all(flags) else torch.where(torch.tensor(flags)[:, None, None, None], turn(vectors), vectors)
    )
