"""One token's attention over the stored entries, its own among them, which is rotated and written on the way.

Knows nothing of caches or budgets: which slot the entry takes and how many are in use is told by the entry table.
"""

from __future__ import annotations

import torch

from prefixkv.kernels.entry_table import EntryTable
from prefixkv.kernels.packing import pack, unpack


def decode_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    scale: float,
    table: EntryTable,
    layer: int,
    bits: int | None = None,
) -> torch.Tensor:
    """Rotate query and key, write the entry into its slot, and attend to all entries in use.

    Args:
        query: (batch, query_heads * head_dim), before RoPE; head `h` is `h * head_dim ..`.
        key: (batch, kv_heads * head_dim), before RoPE, same dtype.
        value: same shape.
        cosine: (batch, head_dim), of the token's position, same dtype.
        sine: same shape.
        scale: factor on the dot products.
        table: says where this layer's entries lie; their keys, values, positions and importance at the slot are
            overwritten, the importance with 0.
        layer: row of the table.
        bits: 8 or 4 where entries are packed (`prefixkv.kernels.packing`); the new one is packed too before it is
            attended to.

    Returns:
        (batch, query_heads * head_dim), in the dtype of the query.
    """
    entries = table.layers[layer]
    (batch, kv_heads), head_dim = entries.keys.shape[:2], cosine.shape[-1]
    query, key = (_rotate(x.reshape(batch, -1, head_dim), cosine[:, None], sine[:, None]) for x in (query, key))
    value = value.reshape(batch, kv_heads, head_dim)
    entries.keys[:, :, entries.slot] = key if bits is None else pack(key, bits)
    entries.values[:, :, entries.slot] = value if bits is None else pack(value, bits)
    entries.positions[..., entries.slot] = entries.position
    entries.importance[..., entries.slot] = 0.0
    # As transformers' own attention does it: its CPU kernel takes no grouped heads without copies.
    group = query.shape[1] // kv_heads
    stored = [buffer[:, :, : entries.kept_tokens] for buffer in (entries.keys, entries.values)]
    if bits is not None:
        stored = [unpack(buffer, bits, query.dtype) for buffer in stored]
    keys, values = (buffer.repeat_interleave(group, dim=1) for buffer in stored)
    output = torch.nn.functional.scaled_dot_product_attention(query[:, :, None], keys, values, scale=scale)
    return output.reshape(batch, -1)


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
