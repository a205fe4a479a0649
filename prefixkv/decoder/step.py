"""One decode step of a Llama-like decoder in the project's kernels, from token ids to logits, rows of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from prefixkv.kernels.dispatch import decode_attention, next_slots, normed_linear, residual_linear, swiglu_linear
from prefixkv.kernels.entry_table import COLUMNS, WHOLE_BITS, EntryTable, LayerEntries
from prefixkv.models.decoder_weights import DecoderWeights

SEEN_TOKENS = COLUMNS.index("seen_tokens")


class DecoderStep(Protocol):
    """A model's step of one token of each row.

    Attributes:
        layers: of the entry table.
        device: where it computes.
    """

    layers: int
    device: torch.device

    def addresses(self) -> tuple[Any, ...]:
        """Something else whenever the step must be captured anew."""

    def empty_entry(self) -> LayerEntries:
        """One entry of zeros in the model's own precision."""

    def __call__(
        self, table: EntryTable, tokens: torch.Tensor, offsets: torch.Tensor, formats: Sequence[int]
    ) -> torch.Tensor:
        """As `decoder_step`, but for the weights."""


class OwnStep:
    """The step of a Llama-like decoder."""

    def __init__(self, weights: DecoderWeights) -> None:
        """Take the weights."""
        self._weights, self.layers, self.device = weights, len(weights.layers), weights.embedding.device

    def addresses(self) -> tuple[Any, ...]:
        """As `DecoderStep` says."""
        return self._weights.addresses()

    def empty_entry(self) -> LayerEntries:
        """As `DecoderStep` says."""
        head_dim = self._weights.angles(torch.zeros(1, dtype=torch.int64, device=self.device))[0].shape[1]
        layer = self._weights.layers[0]
        return LayerEntries.zeros(layer.input_gain.new_zeros(1, len(layer.projections[1][0]) // head_dim, 1, head_dim))

    def __call__(
        self, table: EntryTable, tokens: torch.Tensor, offsets: torch.Tensor, formats: Sequence[int]
    ) -> torch.Tensor:
        """As `DecoderStep` says."""
        return decoder_step(self._weights, table, tokens, offsets, formats)


@torch.no_grad()
def decoder_step(
    weights: DecoderWeights,
    table: EntryTable,
    tokens: torch.Tensor,
    offsets: torch.Tensor,
    formats: Sequence[int] = (WHOLE_BITS,),
) -> torch.Tensor:
    """Read one token for each row; its entries come into the rows' buffers on the way.

    The same launches whatever the rows hold: slots are chosen on the device, lengths and buffers come from the table.

    Args:
        weights: the decoder.
        table: says for every layer and row where its entries lie, which are written to, and counts the token as read.
        tokens: (rows,), int64; of idle rows, any.
        offsets: (rows,), int64: how far a row's position is from the number of tokens read, 0 in most models.
        formats: the precisions that occur in the table.

    Returns:
        (rows, vocabulary), float32; of idle rows, anything.
    """
    next_slots(table)
    cosine, sine = weights.angles(table.cells[0, :, SEEN_TOKENS] - 1 + offsets)
    head_dim = cosine.shape[1]
    hidden = torch.nn.functional.embedding(tokens, weights.embedding)
    for index, layer in enumerate(weights.layers):
        projected = normed_linear(hidden, layer.input_gain, layer.epsilon, layer.projections)
        query, key, value = (part.unflatten(-1, (-1, head_dim)) for part in projected)
        attended = decode_attention(query, key, value, cosine, sine, layer.scale, table, index, formats)
        hidden = residual_linear(attended.flatten(1), layer.output, hidden)
        inner = swiglu_linear(hidden, layer.inner_gain, layer.epsilon, layer.gate, layer.up)
        hidden = residual_linear(inner, layer.down, hidden)
    (logits,) = normed_linear(hidden, weights.final_gain, weights.epsilon, [weights.head])
    return logits.float()
