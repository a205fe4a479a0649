"""Reading: one prompt, by one forward pass, into its row, which then has room for the whole answer."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.prefix_entries import PrefixEntries
from prefixkv.engine.prefix import cut, on_device
from prefixkv.engine.request import Request
from prefixkv.generation.choice import RowChoice
from prefixkv.transformers_compat import cache_argument


def read(model: PreTrainedModel, request: Request, ahead: int, prefix: PrefixEntries | None = None) -> int:
    """Read a request's prompt: score, choose and store, layer by layer.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        request: its row is empty; its inputs are freed.
        ahead: tokens that may be read beyond its longest answer.
        prefix: what its prompt begins with, where that was read; else None.

    Returns:
        The answer's first token.
    """
    if prefix is None:
        inputs = on_device(model, request.inputs)
    else:
        inputs = on_device(model, cut(request.inputs, prefix.tokens))
        prefix.begin(request.row)
    cache = PrefixKVCache.of_rows([request.row])
    with torch.no_grad():
        output = model(**inputs, **cache_argument(cache), use_cache=True, logits_to_keep=1)
    request.inputs = {}
    sampling = request.sampling
    request.row.reserve(sampling.max_new_tokens - 1 + ahead)
    choice = RowChoice(1, output.logits.device)
    choice.set(0, sampling, 0, request.shaping)
    return int(choice(output.logits[:, -1].float(), [0]))
