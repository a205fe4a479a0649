"""One forward pass of transformers that reads one token of each row of a compressed cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.transformers_compat import cache_argument, first_position


def read_tokens(model: PreTrainedModel, cache: PrefixKVCache, tokens: torch.Tensor) -> torch.Tensor:
    """Read a token of each row; no gradients are kept.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        cache: has read a prompt in every row, which may differ in length.
        tokens: (batch,), int64.

    Returns:
        Logits of the next token, (batch, vocabulary), float32.
    """
    options: dict[str, Any] = {}
    if cache.next_positions is None:
        # Where positions have several axes they follow from what the rows have read (`prefixkv.cache.positions`).
        first = first_position(model.config)
        positions = [first + row.seen_tokens for row in cache.rows]
        options["position_ids"] = torch.tensor(positions, device=tokens.device)[:, None]
    with torch.no_grad():
        output = model(input_ids=tokens[:, None], **cache_argument(cache), use_cache=True, logits_to_keep=1, **options)
    return output.logits[:, -1].float()
