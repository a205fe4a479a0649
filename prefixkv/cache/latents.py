"""Latent attention (DeepSeek-V2, arXiv 2405.04434): what is stored is expanded to keys and values for each pass.

A cache returns the stored parts, and attention is given what the model makes of them. What the cache left on the first
has to be found on the second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from prefixkv.cache import hand_off
from prefixkv.cache.hand_off import Attend, HandOff

Expand = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Latents:
    """What keys and values were made of.

    Attributes:
        keys: (batch, 1, entries, kv_lora_rank): the joint part.
        values: (batch, 1, entries, rope_dim): the part that is rotated, of all heads' keys.
        expand: makes keys and values of both.
    """

    keys: torch.Tensor
    values: torch.Tensor
    expand: Expand

    def attending(self, attend: Attend) -> Attend:
        """Attention that is given stored parts, and attends to what they are expanded to.

        Args:
            attend: called with query, keys, values and mask.
        """

        def expanded(
            query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
        ) -> tuple[torch.Tensor, None]:
            word = hand_off.take(keys)
            whole_keys, whole_values = self.expand(keys, values)
            hand_off.leave(whole_keys, replace(word or HandOff(), latents=self))
            return attend(query, whole_keys, whole_values, mask)

        return expanded


@contextlib.contextmanager
def expanded_latents(model: torch.nn.Module) -> Iterator[None]:
    """Carry a cache's word from stored parts to what a model expands them to.

    Args:
        model: of any family; only layers of latent attention have an `expand_kv`.
    """
    layers: list[Any] = [module for module in model.modules() if callable(getattr(module, "expand_kv", None))]
    for layer in layers:
        layer.expand_kv = _carrying(layer.expand_kv)
    try:
        yield
    finally:
        for layer in layers:
            del layer.expand_kv


def _carrying(expand: Expand) -> Expand:
    def carrying(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        word = hand_off.take(keys)
        whole = expand(keys, values)
        if word is not None:
            hand_off.leave(whole[0], replace(word, latents=Latents(keys, values, expand)))
        return whole

    return carrying
