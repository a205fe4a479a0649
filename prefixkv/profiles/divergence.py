"""How much a model's answers suffer where its prompt is stored otherwise: its predictions along an answer, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.generation.forward import read_tokens
from prefixkv.generation.prefill import Prefill
from prefixkv.models.choice import memory_bytes
from prefixkv.models.completed_passes import completed_passes
from prefixkv.models.geometry import KVGeometry

Key = TypeVar("Key")

MEMORY_SHARE = 8
"""Caches that are followed together may take one part in so many of the device's memory."""


@torch.no_grad()
def divergences(
    model: Any,
    geometry: KVGeometry,
    inputs: Mapping[str, torch.Tensor],
    answer: torch.Tensor,
    caches: Mapping[Key, PrefixKVCache],
) -> tuple[dict[Key, float], int]:
    """Divergence of the predictions along an answer, whole cache against others.

    The model reads the prompt once, for all caches, and then the answer, a token a step, in as many of them at a time,
    as the rows of one batch, as memory allows.

    Args:
        model: of transformers.
        geometry: of its cache.
        inputs: of one prompt, on the model's device.
        answer: (tokens,), int64: the model's own.
        caches: empty ones of one row, by what they are called.

    Returns:
        For each cache the sum of KL(whole || it) in nats, and over how many tokens: all but the first, which is
        predicted from the prompt's own pass.
    """
    left, lost = list(caches), dict[Key, float]()
    rows = _most_rows(model, geometry, inputs["input_ids"].shape[1] + len(answer))
    with attention.installed(model), completed_passes(model):
        prompt = Prefill(model, geometry, inputs)
        whole = _predictions(model, prompt, [PrefixKVCache(geometry, "100%", "full")], answer)
        while left:
            names, left = left[:rows], left[rows:]
            others = _predictions(model, prompt, [caches[name] for name in names], answer)
            nats = [_divergence(right, predicted) for right, predicted in zip(whole, others, strict=True)]
            lost |= dict(zip(names, torch.stack(nats).sum(dim=0).tolist() if nats else [0.0] * len(names), strict=True))
    return lost, max(0, len(answer) - 1)


def _most_rows(model: Any, geometry: KVGeometry, tokens: int) -> int:
    """Caches that may be held at the same time, each taken to keep everything."""
    return max(1, memory_bytes(model.device) // MEMORY_SHARE // (tokens * geometry.token_bytes))


def _predictions(
    model: Any, prompt: Prefill, caches: Sequence[PrefixKVCache], answer: torch.Tensor
) -> list[torch.Tensor]:
    """Log-probabilities at each token of the answer but the first: (caches, vocabulary), float32."""
    for cache in caches:
        prompt.fill(cache)
    rows = PrefixKVCache.of_rows([cache.row for cache in caches])
    return [read_tokens(model, rows, token.expand(len(caches))).log_softmax(dim=-1) for token in answer[:-1]]


def _divergence(whole: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """KL(whole || other) in nats, (caches,); a token that the model never says, at minus infinity, counts nothing."""
    return (whole.exp() * (whole - others)).nan_to_num(nan=0.0, posinf=torch.inf).double().sum(dim=-1)
