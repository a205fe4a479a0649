"""One token's attention in each row over the row's stored entries, its own among them, which is written on the way.

Knows nothing of caches or budgets: which slot the entry takes and how many are in use is told by the entry table. Rows
may differ in length, in capacity and in precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.kernels.entry_table import FINE, WHOLE_BITS, EntryTable
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import pack, unpack


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
    """Rotate query and key, write each row's entry into its slot, and attend to all of the row's entries in use.

    Args:
        query: (rows, query_heads, head_dim), before RoPE; rows may lie apart.
        key: (rows, kv_heads, head_dim), before RoPE, same dtype.
        value: same shape.
        cosine: (rows, head_dim), of each row's position, same dtype; None where query and key are rotated already.
        sine: same shape.
        scale: factor on the dot products.
        table: says where each row's entries in this layer lie; their keys, values, positions and importance at the
            slot are overwritten, the importance with 0. A packed entry is rounded before it is attended to.
        layer: of the table.
        formats: the precisions that occur in this layer of the table; those of fine runs with `FINE` added.
        softcap: bound of the logits, which tanh squeezes into it (Gemma 2, arXiv 2408.00118, 2); None for none.

    Returns:
        (rows, query_heads, head_dim), contiguous, in the dtype of the query; 0 in idle rows.
    """
    if cosine is not None and sine is not None:
        query, key = (_rotate(x, cosine[:, None], sine[:, None]) for x in (query, key))
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    for row, entries in enumerate(table.entries[layer]):
        if entries is None:
            continue
        cell = table.cell(layer, row)
        slot, kept, bits = cell["slot"], cell["kept_tokens"], cell["bits"]
        fine_bits = cell["fine_bits"]
        if bits not in formats or (fine_bits and FINE + fine_bits not in formats):
            raise ValueError(f"row {row} is stored in {bits} bits, which is not among {tuple(formats)}")
        keys, values = entries.keys[0], entries.values[0]
        is_packed, of_keys, of_values = bits != WHOLE_BITS, key_bits(bits), value_bits(bits)
        keys[:, slot] = pack(key[row], of_keys) if is_packed else key[row]
        values[:, slot] = pack(value[row], of_values) if is_packed else value[row]
        keys, values = keys[:, :kept], values[:, :kept]
        if is_packed:
            keys, values = unpack(keys, of_keys, query.dtype), unpack(values, of_values, query.dtype)
        if entries.fine_keys is not None and entries.fine_values is not None:
            fine_keys = unpack(entries.fine_keys[0], key_bits(fine_bits), query.dtype)
            fine_values = unpack(entries.fine_values[0], value_bits(fine_bits), query.dtype)
            keys, values = torch.cat([fine_keys, keys], dim=1), torch.cat([fine_values, values], dim=1)
        entries.positions[..., slot] = cell["seen_tokens"] - 1
        entries.importance[..., slot] = 0.0
        output[row] = _attended(query[row], keys, values, scale, softcap)
    return output


def _attended(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    """(query_heads, head_dim), of a query (query_heads, head_dim) and entries (kv_heads, kept_tokens, head_dim)."""
    # As transformers' own attention does it: its CPU kernel takes no grouped heads without copies.
    group = query.shape[0] // keys.shape[0]
    keys, values = (part.repeat_interleave(group, dim=0) for part in (keys, values))
    if softcap is None:
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query[None, :, None], keys[None], values[None], scale=scale)[0, :, 0]
    logits = (query[:, None] @ keys.transpose(1, 2) * scale).to(torch.promote_types(query.dtype, torch.float32))
    weights = (softcap * torch.tanh(logits / softcap)).softmax(dim=-1)
    return (weights.to(query.dtype) @ values)[:, 0]


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
