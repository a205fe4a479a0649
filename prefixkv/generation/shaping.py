"""What a model's generation_config.json does to a row's logits, by transformers' own processors."""

from __future__ import annotations

from typing import Any

import torch

from prefixkv.models.generation_settings import PROCESSED, asked_settings
from prefixkv.transformers_compat import logits_processors


class Shaping:
    """Changes the logits of one row; knows the tokens that the row has read and said, because processors look at them.

    Attributes:
        tokens: (1, prompt_tokens + new_tokens), int64: of the whole prompt, also what an earlier turn has read, and of
            the answer so far.
    """

    def __init__(self, model: Any, tokens: torch.Tensor, new_tokens: int) -> None:
        """Begin an answer; see `shaping_of`."""
        self.tokens = tokens.to(model.device)
        asked = asked_settings(model.generation_config, PROCESSED)
        self._processors = logits_processors(model, asked, self.tokens, new_tokens)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits to choose from.

        Args:
            logits: (1, vocabulary), float32; stays as it is.

        Returns:
            (1, vocabulary), float32.
        """
        shaped: torch.Tensor = self._processors(self.tokens.to(logits.device), logits.clone())
        return shaped

    def push(self, token: torch.Tensor) -> None:
        """Note what was chosen.

        Args:
            token: (1,), int64.
        """
        self.tokens = torch.cat([self.tokens, token.to(self.tokens.device)[:, None]], dim=1)


def shaping_of(model: Any, tokens: torch.Tensor, new_tokens: int) -> Shaping | None:
    """What the model's settings do to the logits of one answer; None where they ask for nothing.

    Args:
        model: of transformers.
        tokens: (1, prompt_tokens), int64: the whole prompt.
        new_tokens: longest answer: some processors count back from its end.
    """
    return Shaping(model, tokens, new_tokens) if asked_settings(model.generation_config, PROCESSED) else None
