"""Tells a cache when a forward pass begins and ends: what needs no more of the model than its last attention can wait.

A device then has the rest of the pass to do meanwhile. And counts positions as a row's method does, whoever gives them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.transformers_compat import cache_in


@contextlib.contextmanager
def watched_passes(model: torch.nn.Module) -> Iterator[None]:
    """Tell the compressed cache of every forward pass of a model.

    Args:
        model: its outermost module.
    """

    def begin(part: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(cache := cache_in(kwargs), PrefixKVCache):
            return None
        cache.begin_pass()
        positions = kwargs.get("position_ids")
        if positions is None or cache.next_positions is not None:
            return None
        return args, kwargs | {"position_ids": _counted(positions, cache)}

    def end(part: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(cache := cache_in(kwargs), PrefixKVCache):
            cache.end_pass()

    # Also where the pass fails: nothing may wait for another one.
    handles = [
        model.register_forward_pre_hook(begin, with_kwargs=True),
        model.register_forward_hook(end, with_kwargs=True, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.compiler.disable
def _counted(positions: torch.Tensor, cache: PrefixKVCache) -> torch.Tensor:
    """Positions in the text, (batch, query_len), as each row counts them: some methods leave out what was evicted."""
    left_out = [0 if row.prefix is not None else row.seen_tokens - row.position for row in cache.rows]
    return positions - torch.tensor(left_out, device=positions.device)[:, None] if any(left_out) else positions
