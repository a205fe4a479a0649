"""How much a model's answers suffer where its prompt is stored otherwise: its predictions along an answer, compared."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from transformers import Cache, DynamicCache, LogitsProcessor, LogitsProcessorList

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.models.completed_passes import completed_passes
from prefixkv.transformers_compat import cache_argument

Key = TypeVar("Key")


def divergences(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    answer: torch.Tensor,
    caches: Mapping[Key, Cache],
) -> tuple[dict[Key, float], int]:
    """Divergence of the predictions along an answer, whole cache against others.

    Args:
        model: of transformers.
        inputs: of one prompt, on the model's device.
        answer: (tokens,), int64: the model's own.
        caches: empty ones, by what they are called.

    Returns:
        For each cache the sum of KL(whole || it) in nats, and over how many tokens: all but the first, which is
        predicted from the prompt's own pass.
    """
    whole = _predictions(model, inputs, answer, DynamicCache(config=model.config))
    lost = {}
    for key, cache in caches.items():
        with attention.installed(model) if isinstance(cache, PrefixKVCache) else nullcontext():
            lost[key] = sum(map(_divergence, whole[1:], _predictions(model, inputs, answer, cache)[1:]))
    return lost, max(0, len(whole) - 1)


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


def _divergence(whole: torch.Tensor, other: torch.Tensor) -> float:
    said = whole > -torch.inf
    return float((whole[said].exp() * (whole[said] - other[said])).sum())


def _predictions(
    model: Any, inputs: Mapping[str, torch.Tensor], answer: torch.Tensor, cache: Cache
) -> list[torch.Tensor]:
    dictation = _Dictation(answer, inputs["input_ids"].shape[1])
    with completed_passes(model):
        model.generate(
            **inputs,
            **cache_argument(cache),
            max_new_tokens=len(answer),
            do_sample=False,
            logits_processor=LogitsProcessorList([dictation]),
        )
    return dictation.predictions
