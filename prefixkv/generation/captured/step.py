"""One decode step of a Llama-like decoder in the project's own kernels, from token ids to logits."""

from __future__ import annotations

import torch

from prefixkv.kernels.dispatch import decode_attention, normed_linear, residual_linear, swiglu_linear
from prefixkv.kernels.entry_table import COLUMNS, EntryTable
from prefixkv.models.decoder_weights import DecoderWeights

POSITION = COLUMNS.index("position")


def decoder_step(
    weights: DecoderWeights, table: EntryTable, tokens: torch.Tensor, offsets: torch.Tensor, bits: int | None = None
) -> torch.Tensor:
    """Read one token for each row; its entries come into the cache on the way.

    The same launches whatever the cache holds: lengths, slots and buffers come from the table.

    Args:
        weights: the decoder.
        table: says for every layer where its entries lie; they are written to.
        tokens: (batch,), int64.
        offsets: (batch,), int64: how far a row's position is from the number of tokens read, 0 in most models.
        bits: 8 or 4 where entries are packed.

    Returns:
        (batch, vocabulary), float32.
    """
    cosine, sine = weights.angles(table.rows[0, POSITION] + offsets)
    hidden = torch.nn.functional.embedding(tokens, weights.embedding)
    for index, layer in enumerate(weights.layers):
        query, key, value = normed_linear(hidden, layer.input_gain, layer.epsilon, layer.projections)
        mixed = decode_attention(query, key, value, cosine, sine, layer.scale, table, index, bits)
        hidden = residual_linear(mixed, layer.output, hidden)
        inner = swiglu_linear(hidden, layer.inner_gain, layer.epsilon, layer.gate, layer.up)
        hidden = residual_linear(inner, layer.down, hidden)
    (logits,) = normed_linear(hidden, weights.final_gain, weights.epsilon, [weights.head])
    return logits.float()
