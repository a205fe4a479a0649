"""The end of a pass that reads a prompt: behind the last attention nobody looks at any token but the last.

The feed-forward part of a Llama-like decoder's last layer is given that token alone, on a CPU, which spends the time on
arithmetic. What it gives is added to the hidden states of all tokens; those of the others hold what nobody reads.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from prefixkv.models.decoder_weights import LLAMA_LIKE
from prefixkv.transformers_compat import decoder_of

_own = threading.local()


@contextlib.contextmanager
def last_token_alone() -> Iterator[None]:
    """Say of the passes that this thread makes inside the `with` that only their last token's logits are looked at."""
    before, _own.is_alone = getattr(_own, "is_alone", False), True
    try:
        yield
    finally:
        _own.is_alone = before


@contextlib.contextmanager
def shortened_last_layer(model: Any) -> Iterator[None]:
    """Have the last decoder layer leave out what is not looked at in passes inside `last_token_alone`.

    Args:
        model: a language or vision-language model of transformers; nothing is done to others than Llama-like ones.
    """
    layers = getattr(decoder_of(model), "layers", None)
    if model.device.type != "cpu" or not layers or type(layers[-1]).__name__ not in LLAMA_LIKE:
        yield
        return
    handle = layers[-1].mlp.register_forward_pre_hook(_Cut())
    try:
        yield
    finally:
        handle.remove()


class _Cut:
    """Stands before the feed-forward part, (batch, tokens, hidden)."""

    computes_the_same = True
    """Told to `prefixkv.models.decoder_weights`, as far as anybody looks at what is computed."""

    def __call__(self, part: torch.nn.Module, hidden: tuple[torch.Tensor]) -> torch.Tensor | None:
        return hidden[0][:, -1:] if getattr(_own, "is_alone", False) else None
