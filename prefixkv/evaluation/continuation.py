"""Continuations of a compressed prompt: a text that is given, or what the model itself would say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from prefixkv.cache.row import CacheRow
from prefixkv.cache.row_usage import layer_usages, mean_bits
from prefixkv.generation.shaping import Shaping
from prefixkv.generation.stop_text import StopWatch


@dataclass(frozen=True)
class Kept:
    """What a row holds when a token is predicted; as `CacheUsage` has it, from counts alone.

    Attributes:
        kept_bytes: of all stored entries.
        full_bytes: of a 16-bit cache of the same tokens.
        kept_tokens_fraction: entries stored of those read.
        bits: of an element as it is counted, the mean over the entries.
        seen_tokens: that the row has read.
    """

    kept_bytes: int
    full_bytes: int
    kept_tokens_fraction: float
    bits: float
    seen_tokens: int

    @classmethod
    def by(cls, row: CacheRow) -> Kept:
        """What a row holds now."""
        layers = layer_usages(row)
        seen, kept = (sum(getattr(layer, name) for layer in layers) for name in ("seen_tokens", "kept_tokens"))
        held = sum(layer.bytes for layer in layers)
        full = seen * row.geometry.counted_bytes
        return cls(held, full, kept / seen, mean_bits(row, layers), layers[0].seen_tokens)


class Continuation(ABC):
    """One continuation.

    Attributes:
        tokens: what was read, and last what was predicted.
        losses: negative log-likelihood of every token, in nats.
        divergences: KL(full || this) at every token, in nats; empty without the full cache's predictions.
        kept: what the cache held at every prediction; empty where that is not wanted.
        predictions: (vocabulary,), float32, log-probabilities at every token; empty where they are not kept.
    """

    def __init__(self, keeps_predictions: bool = False, weighs: bool = True) -> None:
        """Begin.

        Args:
            keeps_predictions: whether all log-probabilities are kept.
            weighs: whether it is noted what the cache holds.
        """
        self.keeps_predictions, self.weighs = keeps_predictions, weighs
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self.divergences: list[float] = []
        self.kept: list[Kept] = []
        self.predictions: list[torch.Tensor] = []

    @property
    def full_prediction(self) -> torch.Tensor | None:
        """(vocabulary,), float32: the full cache's log-probabilities of the next token; None where nothing is compared.

        They are asked for before the token is noted.
        """
        return None

    @abstractmethod
    def choose(self, likeliest: int, logits: torch.Tensor) -> int:
        """The next token.

        Args:
            likeliest: the one of the greatest logit.
            logits: (1, vocabulary), float32.
        """

    @abstractmethod
    def has_ended(self) -> bool:
        """Whether the token that was noted last was the last; asked once for each."""


class GivenText(Continuation):
    """Teacher-forced: the tokens are given."""

    def __init__(
        self,
        text: Sequence[int],
        full: Sequence[torch.Tensor] = (),
        keeps_predictions: bool = False,
        weighs: bool = True,
    ) -> None:
        """Begin.

        Args:
            text: at least one token.
            full: the full cache's log-probabilities of the same text, for the divergence.
            keeps_predictions: as for `Continuation`.
            weighs: likewise.
        """
        super().__init__(keeps_predictions, weighs)
        self._text, self._full = text, full

    @property
    def full_prediction(self) -> torch.Tensor | None:
        """As was given."""
        return self._full[len(self.tokens)] if self._full else None

    def choose(self, likeliest: int, logits: torch.Tensor) -> int:
        """The text's next token."""
        return self._text[len(self.tokens)]

    def has_ended(self) -> bool:
        """Whether the text is at its end."""
        return len(self.tokens) == len(self._text)


class OwnAnswer(Continuation):
    """Greedy: what the model says, the stop token included."""

    def __init__(
        self,
        stops: Collection[int],
        most_tokens: int,
        keeps_predictions: bool = False,
        shaping: Shaping | None = None,
        watch: StopWatch | None = None,
        weighs: bool = True,
    ) -> None:
        """Begin.

        Args:
            stops: tokens that end the answer.
            most_tokens: longest answer.
            keeps_predictions: as for `Continuation`.
            shaping: what the model's settings do to the logits; None for nothing. Losses are the model's own.
            watch: for texts that end the answer; None for none.
            weighs: as for `Continuation`.
        """
        super().__init__(keeps_predictions, weighs)
        self._stops, self._most_tokens, self._shaping, self._watch = stops, most_tokens, shaping, watch

    def choose(self, likeliest: int, logits: torch.Tensor) -> int:
        """The likeliest token, by the logits that the model's settings leave."""
        if self._shaping is None:
            return likeliest
        token = self._shaping(logits).argmax(dim=-1)
        self._shaping.push(token)
        return int(token)

    def has_ended(self) -> bool:
        """Whether the answer has come to a stop, or is as long as it may be."""
        if self._watch is not None and self._watch.push(self.tokens[-1]):
            return True
        return self.tokens[-1] in self._stops or len(self.tokens) == self._most_tokens
