"""Reads a batch's prompts a few rows at a time and joins the rows' entries: the peak is that of a few rows.

All rows of a batch have one length, and every layer's share must be the same in all chunks: it is, where nothing is
evicted or where the shares are known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.transformers_compat import cache_argument


@torch.no_grad()
def read_rows(
    model: PreTrainedModel,
    prompt: torch.Tensor,
    new_cache: Callable[[], PrefixKVCache],
    rows_at_once: int | None = None,
) -> tuple[PrefixKVCache, torch.Tensor]:
    """Read a prompt.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        prompt: (batch, tokens), int64.
        new_cache: makes an empty cache.
        rows_at_once: rows of one forward pass; all where None.

    Returns:
        A cache of all rows, and the logits behind the prompt, (batch, vocabulary).
    """
    chunks = prompt.split(rows_at_once or prompt.shape[0])
    caches, logits = [], []
    for chunk in chunks:
        cache = new_cache()
        output = model(input_ids=chunk, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        logits.append(output.logits[:, -1])
        caches.append(cache)
    first = caches[0]
    if len(caches) > 1:
        first.take_rows(caches[1:])
    return first, torch.cat(logits)
