"""The answers to several prompts at once, each what it would be alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.inputs.padded_batch import padded_batch
from prefixkv.inputs.prompts import Prompt
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import cache_argument


def answer_together(
    loaded: LoadedModel, prompts: Sequence[Prompt], new_cache: Callable[[int], PrefixKVCache], new_tokens: int
) -> list[dict[str, Any]]:
    """Answer greedily.

    Args:
        loaded: the model.
        prompts: one for each row.
        new_cache: makes an empty cache for so many rows.
        new_tokens: longest answer.

    Returns:
        For each prompt `answer`, `prompt_tokens`, `new_tokens` and `finish_reason`.
    """
    model: Any = loaded.model
    stops = stop_tokens(loaded)
    filler = loaded.tokenizer.pad_token_id
    if filler is None:
        filler = min(stops, default=0)
    inputs = loaded.on_device(padded_batch(prompts, filler))
    cache = new_cache(len(prompts))
    # Nothing but the likeliest token: a published model may come with penalties that `chat` does not apply either.
    greedy = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=sorted(stops) or None,
        pad_token_id=filler,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
    )
    with attention.installed(model), torch.no_grad():
        out = model.generate(**inputs, **cache_argument(cache), generation_config=greedy)
    rows = out[:, inputs["input_ids"].shape[1] :].tolist()
    return [_record(loaded, prompt, tokens, stops) for prompt, tokens in zip(prompts, rows, strict=True)]


def _record(loaded: LoadedModel, prompt: Prompt, tokens: list[int], stops: set[int]) -> dict[str, Any]:
    end = next((index + 1 for index, token in enumerate(tokens) if token in stops), len(tokens))
    ended = end > 0 and tokens[end - 1] in stops
    return {
        "answer": loaded.tokenizer.decode(tokens[:end], skip_special_tokens=True).strip(),
        "prompt_tokens": prompt.tokens,
        "new_tokens": end,
        "finish_reason": "stop" if ended else "length",
    }
