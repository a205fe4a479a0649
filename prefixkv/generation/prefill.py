"""One prompt, read once by the model and taken in by any number of compressed caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from prefixkv.cache import hand_off
from prefixkv.cache.hand_off import HandOff
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.scoring import KnownScores
from prefixkv.cache.states import fill_states, state_tensors
from prefixkv.generation.forward import read_prompt
from prefixkv.inputs.positions import answer_room
from prefixkv.kernels import row_lse
from prefixkv.methods.full import FULL
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.text_marks import TextMarks


@dataclass
class _LayerPass:
    """What one layer's attention was given: its new keys and values, and what it hands on when it is done."""

    index: int
    keys: torch.Tensor
    values: torch.Tensor
    queries: torch.Tensor | None = None
    scale: float = 0.0
    lse: torch.Tensor | None = None
    whole_keys: torch.Tensor | None = None
    scores: KnownScores = field(default_factory=dict)

    def note(self, queries: torch.Tensor, scale: float, keys: torch.Tensor | None = None) -> None:
        self.whole_keys = keys
        self.queries, self.scale, self.lse = queries, scale, row_lse.recall(queries)


class _Recorder(PrefixKVCache):
    """Stores nothing but notes what every layer's attention was given."""

    def __init__(self, geometry: KVGeometry) -> None:
        super().__init__(geometry, "100%", FULL)
        self.passes: list[_LayerPass] = []
        self.marks: TextMarks | None = None

    def mark(self, marks: TextMarks) -> None:
        """Note what the model says of its tokens."""
        self.marks = marks

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the new keys and values back: they are all that there is to attend to."""
        layer = _LayerPass(layer_idx, key_states, value_states)
        self.passes.append(layer)
        if layer_idx in self.windows:
            return super().update(key_states, value_states, layer_idx)
        again = HandOff() if self.geometry.bare_layers else None
        hand_off.leave(key_states, HandOff(layer.note, again=again))
        return key_states, value_states


class Prefill:
    """A prompt that the model has read, ready for any method and budget.

    While a prompt is read, every layer attends to all of its keys before it is compacted. So the hidden states, the
    keys, the values and the queries are the same whatever is kept, and one pass of the model serves all cells. The
    caches are filled by their own code, layer by layer in order; the result is bit for bit that of a pass of their own
    (a test compares them). Memory: the keys, values and queries of one prompt in all layers.

    Attributes:
        logits: (1, vocabulary), float32, of the last position.
    """

    def __init__(self, model: Any, geometry: KVGeometry, inputs: Mapping[str, torch.Tensor]) -> None:
        """Read the prompt.

        Args:
            model: of transformers, inside `prefixkv.cache.attention.installed`.
            geometry: of its cache.
            inputs: the model's inputs for one prompt.

        Raises:
            PrefixKVError: it fills the model's positions, or the model does not take its pictures.
        """
        answer_room(model.config, inputs["input_ids"].shape[1])
        self._recorder = _Recorder(geometry)
        self.logits = read_prompt(model, inputs, self._recorder)

    def fill(self, cache: PrefixKVCache, shares_scores: bool = False) -> None:
        """Have an empty cache take in the prompt and compact it.

        Args:
            cache: of the same model.
            shares_scores: whether entries are scored once for all caches of a method that are filled so: these have the
                same look-ahead queries, or none.
        """
        if self._recorder.marks is not None:
            cache.mark(self._recorder.marks)
        for layer in self._recorder.passes:
            keys, _ = cache.update(layer.keys, layer.values, layer.index)
            word = hand_off.take(keys)
            if word is not None and word.after is not None and layer.queries is not None:
                if layer.lse is not None:
                    row_lse.remember(layer.queries, layer.lse)
                if shares_scores and cache.row.chunk is not None:
                    cache.row.chunk.known_scores = layer.scores
                word.after(layer.queries, layer.scale, layer.whole_keys)
                row_lse.forget()
        # The cache's model will write into them.
        states = state_tensors(self._recorder.row.states)
        fill_states(cache.row.states, {key: tensor.clone() for key, tensor in states.items()})
        cache.next_positions = self._recorder.next_positions
