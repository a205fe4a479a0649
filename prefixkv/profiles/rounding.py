"""How much a model's answers suffer when its prompt is stored in few bits: measured, since models differ widely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from prefixkv.kernels.packing import pack, unpack
from prefixkv.models.layer_sizes import EntryShape
from prefixkv.policy.precision import COARSE_BITS, FEWEST_BITS
from prefixkv.transformers_compat import cache_argument, completed_outputs

ANSWER_TOKENS = 64
"""Tokens of an answer that are compared."""


class _RoundedCache(DynamicCache):
    """A full cache whose first chunk is attended to as it is and stored as packing would leave it."""

    def __init__(self, config: Any, bits: int) -> None:
        super().__init__(config=config)
        self._bits = bits
        self._read: set[int] = set()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store rounded in the first pass, but not in window layers, which are never packed."""
        if layer_idx in self._read or self.is_sliding[layer_idx]:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        self._read.add(layer_idx)
        keys, values = (unpack(pack(part, self._bits), self._bits, part.dtype) for part in (key_states, value_states))
        super().update(keys, values, layer_idx, *args, **kwargs)
        return key_states, value_states


class _Dictation(LogitsProcessor):
    """Lets a model generate a given text and notes what it would have said, in float32."""

    def __init__(self, answer: torch.Tensor, start: int) -> None:
        self._answer, self._start = answer, start
        self.predictions: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self._start
        self.predictions.append(scores[0].float().log_softmax(dim=-1))
        dictated = torch.full_like(scores, -torch.inf)
        dictated[:, self._answer[step]] = 0.0
        return dictated


def rounding_losses(
    model: Any, inputs: Mapping[str, torch.Tensor], answer: torch.Tensor, shape: EntryShape
) -> tuple[dict[int, float], int]:
    """Divergence of the predictions along an answer, whole cache against one rounded to 4 and one to 2 bits.

    Args:
        model: of transformers.
        inputs: of one prompt, on the model's device.
        answer: (tokens,), int64: the model's own; its first `ANSWER_TOKENS` count.
        shape: of an entry; a packed key or value must be whole bytes.

    Returns:
        For each number of bits the sum of KL(whole || rounded) in nats, and over how many tokens: all but the first,
        which is predicted before anything is rounded.
    """
    answer = answer[:ANSWER_TOKENS]
    whole = _predictions(model, inputs, answer, DynamicCache(config=model.config))
    losses = {}
    for bits in (COARSE_BITS, FEWEST_BITS):
        if all(width * bits % 8 == 0 for width in (shape.key_dim, shape.value_dim)):
            rounded = _predictions(model, inputs, answer, _RoundedCache(model.config, bits))
            losses[bits] = sum(map(_divergence, whole[1:], rounded[1:]))
    return losses, max(0, len(whole) - 1)


def _divergence(whole: torch.Tensor, rounded: torch.Tensor) -> float:
    said = whole > -torch.inf
    return float((whole[said].exp() * (whole[said] - rounded[said])).sum())


def _predictions(
    model: Any, inputs: Mapping[str, torch.Tensor], answer: torch.Tensor, cache: DynamicCache
) -> list[torch.Tensor]:
    dictation = _Dictation(answer, inputs["input_ids"].shape[1])
    with completed_outputs(model):
        model.generate(
            **inputs,
            **cache_argument(cache),
            max_new_tokens=len(answer),
            do_sample=False,
            logits_processor=LogitsProcessorList([dictation]),
        )
    return dictation.predictions
