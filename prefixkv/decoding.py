"""From inputs to new tokens on a compressed cache: one prefill, then one step a token."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, TopPLogitsWarper

from prefixkv.cache import PrefixKVCache
from prefixkv.sampling import Sampling


def decode(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    cache: PrefixKVCache,
    sampling: Sampling,
    stop_tokens: Collection[int],
) -> Generator[int, None, None]:
    """Read the inputs and yield new tokens, the stop token included.

    A token's own entry comes into the cache only when the next one is asked for: after the n-th token the cache has
    read the inputs and n - 1 tokens.

    Args:
        model: inside `prefixkv.attention.installed`.
        inputs: the model's inputs for the part that the cache has not read, `input_ids` (1, new_len) among them.
        cache: what was read before; grows.
        sampling: how to choose.
        stop_tokens: tokens that end the answer.

    Yields:
        At most `sampling.max_new_tokens` token ids.
    """
    choose = _Chooser(sampling, model.device)
    token = choose(_forward(model, cache, **inputs))
    for count in range(1, sampling.max_new_tokens + 1):
        number = int(token)
        yield number
        if number in stop_tokens or count == sampling.max_new_tokens:
            return
        token = choose(_forward(model, cache, input_ids=token[:, None]))


@torch.no_grad()
def _forward(model: PreTrainedModel, cache: PrefixKVCache, **inputs: Any) -> torch.Tensor:
    """Logits of the last position, (batch, vocabulary), float32."""
    return model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()


class _Chooser:
    """The next token from its logits, as transformers' generate does it."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)
        self._nucleus = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """(batch,), int64."""
        if self._sampling.temperature == 0:
            return logits.argmax(dim=-1)
        logits = logits / self._sampling.temperature
        if self._nucleus is not None:
            logits = self._nucleus(None, logits)
        return torch.multinomial(logits.softmax(dim=-1), 1, generator=self._random)[:, 0]
