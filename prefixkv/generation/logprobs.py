"""How likely a token was, and which others were likeliest: of the model's own logits, before anything shapes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of one place of an answer.

    Attributes:
        chosen: natural logarithm of the probability of the token that was chosen.
        likeliest: ids of the likeliest tokens and their logarithms, the likeliest first.
    """

    chosen: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class LogprobTensors:
    """The same on the device, not waited for.

    Attributes:
        chosen: (1,), float32.
        values: (count,), float32, descending.
        ids: (count,), int64.
    """

    chosen: torch.Tensor
    values: torch.Tensor
    ids: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, token: torch.Tensor, count: int) -> LogprobTensors:
        """Score one place.

        Args:
            logits: (vocabulary,), float32, as the model gives them.
            token: (1,), int64: the chosen one.
            count: likeliest tokens that are told beside it.
        """
        logprobs = logits.log_softmax(dim=-1)
        values, ids = logprobs.topk(min(count, len(logprobs)))
        return cls(logprobs[token], values, ids)

    def fetched(self) -> Logprobs:
        """The numbers; waits for the device."""
        pairs = zip(self.ids.tolist(), self.values.tolist(), strict=True)
        return Logprobs(float(self.chosen), tuple(pairs))
