"""Which passes a model makes: how many tokens its decoder reads each time, and how many pictures it looks at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Passes:
    """What a model did.

    Attributes:
        tokens: query tokens of each pass of the decoder, in order.
        pictures: passes of the convolution with which a vision tower begins.
    """

    tokens: list[int] = field(default_factory=list)
    pictures: int = 0


@contextmanager
def passes(model: torch.nn.Module) -> Iterator[Passes]:
    """Count what a model does inside the `with`."""
    seen = Passes()

    def note_tokens(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        seen.tokens.append(states.shape[1])

    def note_picture(layer: Any, args: tuple[Any, ...]) -> None:
        seen.pictures += 1

    first = next(layer for name, layer in model.named_modules() if name.endswith("language_model.layers.0"))
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    hooks = [first.register_forward_pre_hook(note_tokens, with_kwargs=True)]
    hooks += [module.register_forward_pre_hook(note_picture) for module in convolutions]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
