"""The next token from its logits, as transformers' generate draws it; on the device, without waiting for it."""

from __future__ import annotations

import torch
from transformers import TopPLogitsWarper

from prefixkv.generation.sampling import Sampling


class TokenChoice:
    """Chooses tokens as the user asks for it.

    Attributes:
        random: where draws come from; None where the most likely token is taken.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._temperature = sampling.temperature
        self.random: torch.Generator | None = None
        if sampling.temperature > 0:
            self.random = torch.Generator(device)
            if sampling.seed is None:
                self.random.seed()
            else:
                self.random.manual_seed(sampling.seed)
        self._nucleus = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Choose for every row.

        Args:
            logits: (batch, vocabulary), float32.

        Returns:
            (batch,), int64.
        """
        if self.random is None:
            return logits.argmax(dim=-1)
        logits = logits / self._temperature
        if self._nucleus is not None:
            logits = self._nucleus(None, logits)
        return torch.multinomial(logits.softmax(dim=-1), 1, generator=self.random)[:, 0]
