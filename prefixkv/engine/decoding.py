"""From inputs to new tokens on a compressed cache: one prefill, then one step a token."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.decoder.captured import CapturedStep
from prefixkv.engine.captured_rows import formats_of
from prefixkv.engine.stepper import Stepper
from prefixkv.generation.choice import RowChoice
from prefixkv.generation.forward import are_numbers, read_prompt, refuse_no_numbers
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import Shaping

FEW_TOKENS = 4
"""An answer of so few tokens is not worth capturing a step for."""


def decode(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    cache: PrefixKVCache,
    sampling: Sampling,
    stop_tokens: Collection[int],
    captured: bool | None = None,
    notify: Callable[[str], None] = warnings.warn,
    shaping: Shaping | None = None,
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
        shaping: what the model's settings do to the logits of this answer; None for nothing.

    Yields:
        At most `sampling.max_new_tokens` token ids.
    """
    steps = decode_rows(model, inputs, cache, sampling, captured, notify, [shaping])
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
    shapings: Sequence[Shaping | None] | None = None,
) -> Generator[list[int], None, None]:
    """Read the inputs of several rows and yield each row's new token, step by step, without end tokens.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        inputs: the model's inputs, `input_ids` (batch, new_len) among them.
        cache: what was read before; grows.
        sampling: how to choose; each row draws by a seed of its own.
        captured: whether the step is captured; None: where it can be and is worth it. False, or PREFIXKV_CAPTURE=0 in
            the environment, takes the plain path.
        notify: told why, once for each model, where a step on a CUDA device cannot be captured.
        shapings: one for each row, or None, see `decode`.

    Yields:
        `sampling.max_new_tokens` times one token id for each row.

    Raises:
        NotCapturableError: the step cannot be captured and `captured` is true.
        PrefixKVError: the model does not take the pictures, or what it says are no numbers.
    """
    logits = read_prompt(model, inputs, cache)
    places = list(range(logits.shape[0]))
    each = [sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + place) for place in places]
    shaped = shapings or [None] * len(places)
    choice = RowChoice(len(places), logits.device)
    for place in places:
        choice.set(place, each[place], 0, shaped[place])
    tokens: list[int] = choice(logits, places).tolist()
    refuse_no_numbers(bool(are_numbers(model, logits)))
    yield tokens
    if sampling.max_new_tokens == 1:
        return
    if captured is None and sampling.max_new_tokens <= FEW_TOKENS:
        size = 1 << (len(places) - 1).bit_length()
        captured = None if CapturedStep.is_ready(model, size, formats_of(cache.rows)) else False
    stepper = Stepper(model, len(places), notify, captured)
    for row, token, place in zip(cache.rows, tokens, places, strict=True):
        stepper.join(row, token, each[place], 1, shaped[place])
    try:
        for _ in range(sampling.max_new_tokens - 1):
            stepper.advance()
            cache.count_step()
            yield list(stepper.tokens().values())
    finally:
        for place in places:
            stepper.leave(place)
