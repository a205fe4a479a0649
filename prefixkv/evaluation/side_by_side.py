"""Continuations on the caches of many cells at once: the model takes one step for all of them, as a batch.

Reading the weights, not the cache, is what a step of a single prompt costs; so all cells together cost little more than
one. The rows differ in rounding only: a batch multiplies its matrices in another order than a single row does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.evaluation.continuation import Continuation, State, part
from prefixkv.transformers_compat import cache_argument

ROWS = 32
"""So many rows are one batch."""


class _Rows(Cache):
    """Caches of single rows, which differ in what they keep but have read the same number of tokens."""

    def __init__(self, caches: Sequence[PrefixKVCache]) -> None:
        # What transformers asks of layers, their lengths in tokens read, is the same in all rows.
        super().__init__(layers=list(caches[0].layers))
        self._caches = caches

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every row's cache takes in its own token when attention comes to it."""
        attention.hand_off(key_states, None, partial(self._attend, layer_idx))
        return key_states, value_states

    def _attend(
        self,
        layer_idx: int,
        attend: Callable[..., tuple[torch.Tensor, None]],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        outputs = []
        for row, cache in enumerate(self._caches):
            part = slice(row, row + 1)
            keys, values = cache.update(key[part], value[part], layer_idx)
            outputs.append(attend(query[part], keys, values, None)[0])
        return torch.cat(outputs)


def follow_side_by_side(model: PreTrainedModel, begun: Sequence[tuple[State, Sequence[Continuation]]]) -> None:
    """Follow continuations on several caches to their ends, all with one step of the model a token.

    Args:
        model: inside `prefixkv.cache.attention.installed`; see `Prefill.fits_a_batch`.
        begun: states after the same prompt, which are used up, and what is to be followed from each. What one
            continuation needs of another one's predictions must come behind it.
    """
    forward: Any = model
    branches = list(begun)
    while branches:
        parted = [branch for state, followed in branches for branch in part(state, followed)]
        for start in range(0, len(parted), ROWS):
            rows = parted[start : start + ROWS]
            caches = [state.cache for state, _, _ in rows]
            device = rows[0][0].logits.device
            # A method may place new tokens by its own count.
            places = torch.tensor([cache.get_seq_length() for cache in caches], device=device)[:, None]
            ids = torch.tensor([token for _, token, _ in rows], device=device)[:, None]
            output = forward(
                input_ids=ids, position_ids=places, **cache_argument(_Rows(caches)), use_cache=True, logits_to_keep=1
            )
            for row, (state, _, _) in enumerate(rows):
                state.logits = output.logits[row : row + 1, -1].float()
        branches = [(state, followed) for state, _, followed in parted]
