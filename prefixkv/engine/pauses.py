"""Pauses in a pass that reads a prompt: before each of the model's blocks others may have the device for a step.

The pass itself stays one pass, with the numbers that it has alone. A prompt that is read in chunks of tokens instead
would have to be held uncompressed until its last chunk, since what its entries are worth is known only then.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from prefixkv.engine.stream import FinishReason
from prefixkv.models.blocks import block_lists
from prefixkv.transformers_compat import decoder_of


class PassInterruptedError(Exception):
    """The prompt that is read need not be read on."""

    def __init__(self, reason: FinishReason) -> None:
        """Say why."""
        super().__init__(reason)
        self.reason: FinishReason = reason


LEAST_TOKENS = 16
"""A block costs no less than so many tokens on a GPU, however few it is given: launching its kernels takes the time."""
END_SHARE = 0.125
"""Settling what is kept costs so much of what reading the prompt does."""


@contextlib.contextmanager
def pauses(model: Any, pause: Callable[[float], None], thread: int | None = None) -> Iterator[None]:
    """Have a function called before each block of the passes that a thread makes while the `with` lasts.

    Blocks are the members of the outermost module lists: decoder layers, and those of a vision tower. So it is when the
    last of them has run, before what is kept of the prompt is settled.

    Args:
        model: a language or vision-language model of transformers.
        pause: told what the block costs, in prompt tokens that the whole decoder reads; may itself run the model, and
            stops the pass where it raises.
        thread: its ident; this one's where None.
    """
    blocks = [block for group in block_lists(model) for block in group]
    thread = threading.get_ident() if thread is None else thread
    least = LEAST_TOKENS if model.device.type == "cuda" else 0
    whole = sum(_size(block) for group in block_lists(decoder_of(model)) for block in group)
    with contextlib.ExitStack() as hooks:
        for block in blocks:
            hook = _Hook(thread, pause, _size(block) / max(1, whole), least)
            hooks.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)
        end = _End(thread, pause, END_SHARE, least)
        # Before those who settle what a cache holds when the pass has ended.
        hooks.callback(model.register_forward_hook(end, with_kwargs=True, prepend=True).remove)
        yield


class _Hook:
    """Stands before a block."""

    computes_the_same = True
    """Told to `prefixkv.models.decoder_weights`, which otherwise takes a model with hooks for another kind."""

    def __init__(self, thread: int, pause: Callable[[float], None], share: float, least: int) -> None:
        self._thread, self._pause, self._share, self._least = thread, pause, share, least

    @torch.compiler.disable
    def __call__(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self._pause(max(self._least, self._share * _tokens((*args, *kwargs.values()))))


class _End(_Hook):
    """Stands behind a whole pass."""

    @torch.compiler.disable
    def __call__(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if threading.get_ident() == self._thread:
            ids = kwargs.get("input_ids")
            self._pause(max(self._least, self._share * (0 if ids is None else ids.numel())))


def _size(block: Any) -> int:
    return sum(parameter.numel() for parameter in block.parameters())


def _tokens(arguments: Any) -> int:
    """Tokens of the hidden states that a block is given, (batch, tokens, hidden) or (tokens, hidden)."""
    hidden = next((each for each in arguments if isinstance(each, torch.Tensor)), None)
    return 0 if hidden is None or hidden.ndim not in {2, 3} else hidden.shape[:-1].numel()
