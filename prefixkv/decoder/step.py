"""One decode step of a Llama-like decoder in the project's kernels, from token ids to logits, rows of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from prefixkv.decoder.stages import Stage, stages_of
from prefixkv.kernels.dispatch import decode_attention, next_slots, normed_linear, residual_linear, swiglu_linear
from prefixkv.kernels.entry_table import COLUMNS, WHOLE_BITS, EntryTable, LayerEntries
from prefixkv.models.decoder_weights import DecoderWeights

SEEN_TOKENS = COLUMNS.index("seen_tokens")


class DecoderStep(Protocol):
    """A model's step of one token of each row.

    Attributes:
        stages: its parts, each on one device, in order.
    """

    stages: Sequence[Stage]

    def addresses(self) -> tuple[Any, ...]:
        """Something else whenever the step must be captured anew."""

    def empty_entry(self, device: torch.device) -> LayerEntries:
        """One entry of zeros in the model's own precision."""

    def __call__(
        self, stage: Stage, table: EntryTable, given: torch.Tensor, offsets: torch.Tensor, formats: Sequence[int]
    ) -> torch.Tensor:
        """As `OwnStep.__call__`."""


class OwnStep:
    """The step of a Llama-like decoder, on one device or several."""

    def __init__(self, weights: DecoderWeights, places: Sequence[torch.device] | None = None) -> None:
        """Take the weights.

        Args:
            weights: the decoder.
            places: as for `stages_of`, where the weights are if None.
        """
        self._weights = weights
        # A head that has the embedding's weights is on its device, and the norm before it on the last layer's.
        self._final_gain = weights.final_gain.to(weights.head[0].device)
        self.stages: Sequence[Stage] = stages_of(places or weights.places)

    def addresses(self) -> tuple[Any, ...]:
        """As `DecoderStep` says."""
        return self._weights.addresses()

    def empty_entry(self, device: torch.device) -> LayerEntries:
        """As `DecoderStep` says."""
        layer, head_dim = self._weights.layers[0], self._weights.head_dim
        shape = 1, len(layer.projections[1][0]) // head_dim, 1, head_dim
        keys, values = layer.input_gain.new_zeros(2, *shape, device=device)
        return LayerEntries.zeros(keys, values)

    @torch.no_grad()
    def __call__(
        self,
        stage: Stage,
        table: EntryTable,
        given: torch.Tensor,
        offsets: torch.Tensor,
        formats: Sequence[int] = (WHOLE_BITS,),
    ) -> torch.Tensor:
        """Read one token for each row in a stage's layers; its entries come into the rows' buffers on the way.

        The same launches whatever the rows hold: slots are chosen on the device, lengths and buffers come from the
        table. Everything is on the stage's device.

        Args:
            stage: of `stages`.
            table: says for each of the stage's layers and each row where its entries lie, which are written to, and
                counts the token as read.
            given: token ids, (rows,), int64, or hidden states, (rows, hidden); of idle rows, any.
            offsets: (rows,), int64: how far a row's position is from the number of tokens read, 0 in most models.
            formats: the precisions that occur in the table.

        Returns:
            Hidden states, (rows, hidden), or logits, (rows, vocabulary), float32; of idle rows, anything.
        """
        weights = self._weights
        hidden = torch.nn.functional.embedding(given, weights.embedding) if stage.embeds else given
        if stage.layers:
            next_slots(table)
            cosine, sine = weights.angles(table.cells[0, :, SEEN_TOKENS] - 1 + offsets)
        for index, place in enumerate(stage.layers):
            layer = weights.layers[place]
            projected = normed_linear(hidden, layer.input_gain, layer.epsilon, layer.projections)
            query, key, value = (part.unflatten(-1, (-1, weights.head_dim)) for part in projected)
            attended = decode_attention(query, key, value, cosine, sine, layer.scale, table, index, formats)
            hidden = residual_linear(attended.flatten(1), layer.output, hidden)
            inner = swiglu_linear(hidden, layer.inner_gain, layer.epsilon, layer.gate, layer.up)
            hidden = residual_linear(inner, layer.down, hidden)
        if not stage.answers:
            return hidden
        (logits,) = normed_linear(hidden, self._final_gain, weights.epsilon, [weights.head])
        return logits.float()
