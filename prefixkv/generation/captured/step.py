"""One decode step of a Llama-like decoder in the project's own kernels, from token ids to logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.kernels.dispatch import decode_attention, normed_linear, residual_linear, swiglu_linear
from prefixkv.kernels.entry_table import COLUMNS, WHOLE_BITS, EntryTable
from prefixkv.models.decoder_weights import DecoderWeights

SEEN_TOKENS = COLUMNS.index("seen_tokens")


def decoder_step(
    weights: DecoderWeights,
    table: EntryTable,
    tokens: torch.Tensor,
    offsets: torch.Tensor,
    formats: Sequence[int] = (WHOLE_BITS,),
) -> torch.Tensor:
    """Read one token for each row; its entries come into the cache on the way.

    The same launches whatever the cache holds: lengths, slots and buffers come from the table.

    Args:
        weights: the decoder.
        table: says for every layer where its entries lie; they are written to.
        tokens: (rows,), int64.
        offsets: (rows,), int64: how far a row's position is from the number of tokens read, 0 in most models.
        formats: the precisions that occur in the table.

    Returns:
        (rows, vocabulary), float32.
    """
    cosine, sine = weights.angles(table.cells[0, :, SEEN_TOKENS] - 1 + offsets)
    head_dim = cosine.shape[1]
    hidden = torch.nn.functional.embedding(tokens, weights.embedding)
    for index, layer in enumerate(weights.layers):
        projected = normed_linear(hidden, layer.input_gain, layer.epsilon, layer.projections)
        query, key, value = (part.unflatten(-1, (-1, head_dim)) for part in projected)
        mixed = decode_attention(query, key, value, cosine, sine, layer.scale, table, index, formats)
        hidden = residual_linear(mixed.flatten(1), layer.output, hidden)
        inner = swiglu_linear(hidden, layer.inner_gain, layer.epsilon, layer.gate, layer.up)
        hidden = residual_linear(inner, layer.down, hidden)
    (logits,) = normed_linear(hidden, weights.final_gain, weights.epsilon, [weights.head])
    return logits.float()
