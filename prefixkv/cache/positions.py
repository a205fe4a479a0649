"""True positions on every turn, for models whose positions have several axes (time, row and column of a picture).

Such a model computes a prompt's positions from its pictures, and remembers on itself, for whichever text it read last,
how far positions and tokens are apart. A later turn with a new picture, or a second conversation, would get wrong ones.
Here the cache remembers where its own text has got to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.transformers_compat import cache_in

AXES = 3


@contextlib.contextmanager
def tracked(model: PreTrainedModel) -> Iterator[None]:
    """Give the model, wherever the caller does not, the positions that follow what its cache has read.

    Args:
        model: of any family; nothing is done where positions have one axis.
    """
    parts: list[Any] = [part for part in (model, getattr(model, "model", None)) if hasattr(part, "get_rope_index")]
    if not parts:
        yield
        return
    handle = parts[-1].register_forward_pre_hook(_fill_in, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.compiler.disable
def _fill_in(part: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    cache = cache_in(kwargs)
    if not isinstance(cache, PrefixKVCache):
        return None
    positions = kwargs.get("position_ids")
    if positions is None:
        positions = _following(part, cache, kwargs)
    axes = positions[-AXES:] if positions.ndim == AXES else positions[None]
    cache.next_positions = axes.amax(dim=(0, 2)) + 1
    return args, kwargs | {"position_ids": positions}


def _following(part: Any, cache: PrefixKVCache, kwargs: dict[str, Any]) -> torch.Tensor:
    """Positions of the tokens that the model is about to read, (axes, batch, tokens), int64."""
    tokens = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
    batch, count = tokens.shape[:2]
    mask = kwargs.get("attention_mask")
    if mask is not None:
        mask = mask[:, -count:]
    pictures = {name: kwargs.get(name) for name in ("image_grid_thw", "video_grid_thw")}
    kinds = kwargs.get("mm_token_type_ids")
    if kinds is not None and any(grid is not None for grid in pictures.values()):
        local, _ = part.get_rope_index(tokens, mm_token_type_ids=kinds[:, -count:], attention_mask=mask, **pictures)
    else:
        ones = torch.ones(batch, count, dtype=torch.int64, device=tokens.device) if mask is None else mask.long()
        local = (ones.cumsum(dim=-1) - 1).clamp(min=0).expand(AXES, -1, -1)
    if cache.get_seq_length() == 0 or cache.next_positions is None:
        return local
    return local + cache.next_positions.to(local.device)[None, :, None]
