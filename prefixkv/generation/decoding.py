"""From inputs to new tokens on a compressed cache: one prefill, then one step a token."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.generation.captured.graph import CapturedStep
from prefixkv.generation.captured.refusal import NotCapturableError
from prefixkv.generation.captured.steps import CapturedSteps
from prefixkv.generation.choice import TokenChoice
from prefixkv.generation.sampling import Sampling
from prefixkv.kernels.dispatch import plain_path_is_wanted
from prefixkv.kernels.entry_table import WHOLE_BITS
from prefixkv.transformers_compat import cache_argument

FEW_TOKENS = 4
"""An answer of so few tokens is not worth capturing a step for."""

_told: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


class Steps(Protocol):
    """The steps of one answer behind its prompt."""

    def tokens(self) -> list[int]:
        """The newest token of each row."""

    def advance(self) -> None:
        """Read the newest tokens and choose the next."""


def decode(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    cache: PrefixKVCache,
    sampling: Sampling,
    stop_tokens: Collection[int],
    captured: bool | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> Generator[int, None, None]:
    """Read the inputs and yield new tokens, the stop token included.

    A token's own entry comes into the cache only when the next one is asked for: after the n-th token the cache has
    read the inputs and n - 1 tokens.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        inputs: the model's inputs for the part that the cache has not read, `input_ids` (1, new_len) among them.
        cache: what was read before; grows.
        sampling: how to choose.
        stop_tokens: tokens that end the answer.
        captured: see `decode_rows`.
        notify: see `decode_rows`.

    Yields:
        At most `sampling.max_new_tokens` token ids.
    """
    steps = decode_rows(model, inputs, cache, sampling, captured, notify)
    try:
        for tokens in steps:
            yield tokens[0]
            if tokens[0] in stop_tokens:
                return
    finally:
        steps.close()


def decode_rows(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    cache: PrefixKVCache,
    sampling: Sampling,
    captured: bool | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> Generator[list[int], None, None]:
    """Read the inputs of several rows of one length and yield each row's new token, step by step, without end tokens.

    On a CUDA device the step of a Llama-like decoder is captured as one graph and replayed; other models, several
    devices and the CPU take transformers' own forward pass, to the same tokens.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        inputs: the model's inputs, `input_ids` (batch, new_len) among them.
        cache: what was read before; grows.
        sampling: how to choose.
        captured: whether the step is captured; None: where it can be and is worth it. False, or PREFIXKV_CAPTURE=0 in
            the environment, takes the plain path.
        notify: told why, once for each model, where a step on a CUDA device cannot be captured.

    Yields:
        `sampling.max_new_tokens` times one token id for each row.

    Raises:
        NotCapturableError: the step cannot be captured and `captured` is true.
    """
    choose = TokenChoice(sampling, model.device)
    tokens = choose(_forward(model, cache, **inputs))
    yield tokens.tolist()
    if sampling.max_new_tokens == 1:
        return
    steps = _steps(model, cache, choose, tokens, sampling.max_new_tokens, captured, notify)
    for _ in range(sampling.max_new_tokens - 1):
        steps.advance()
        yield steps.tokens()


def _steps(
    model: PreTrainedModel,
    cache: PrefixKVCache,
    choose: TokenChoice,
    tokens: torch.Tensor,
    max_new_tokens: int,
    captured: bool | None,
    notify: Callable[[str], None],
) -> Steps:
    if captured is None and plain_path_is_wanted():
        captured = False
    if captured is None:
        ready = CapturedStep.is_ready(model, tokens.shape[0], cache.layers[0].bits or WHOLE_BITS)
        captured = None if tokens.is_cuda and (ready or max_new_tokens > FEW_TOKENS) else False
    if captured is False:
        return _PlainSteps(model, cache, choose, tokens)
    try:
        return CapturedSteps(model, cache, choose, tokens)
    except NotCapturableError as error:
        if captured:
            raise
        if str(error) not in _told.setdefault(model, set()):
            _told[model].add(str(error))
            notify(str(error))
        return _PlainSteps(model, cache, choose, tokens)


class _PlainSteps:
    """Transformers' own forward pass, one call a token."""

    def __init__(self, model: PreTrainedModel, cache: PrefixKVCache, choose: TokenChoice, tokens: torch.Tensor) -> None:
        self._model, self._cache, self._choose, self._tokens = model, cache, choose, tokens

    def tokens(self) -> list[int]:
        found: list[int] = self._tokens.tolist()
        return found

    def advance(self) -> None:
        self._tokens = self._choose(_forward(self._model, self._cache, input_ids=self._tokens[:, None]))


@torch.no_grad()
def _forward(model: PreTrainedModel, cache: PrefixKVCache, **inputs: Any) -> torch.Tensor:
    """Logits of the last position, (batch, vocabulary), float32."""
    return model(**inputs, **cache_argument(cache), use_cache=True, logits_to_keep=1).logits[:, -1].float()
