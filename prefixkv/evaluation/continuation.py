"""Continuations of one compressed prompt: a text that is given, or what the model itself would say.

Several continuations are followed together. As long as they agree they share one cache; where they part, the cache is
copied. Every token is one step of the real decode path, eviction included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.snapshot import copy_of
from prefixkv.cache.usage import CacheUsage
from prefixkv.generation.forward import read_tokens
from prefixkv.generation.shaping import Shaping
from prefixkv.generation.stop_text import StopWatch
from prefixkv.transformers_compat import cache_argument

ROWS = 32
"""So many rows are one batch of those that are followed together."""


class State:
    """A cache and what the model predicts from it.

    Attributes:
        cache: what was read so far, compressed.
        logits: (1, vocabulary), float32: prediction of the next token.
    """

    def __init__(self, model: PreTrainedModel, cache: PrefixKVCache, logits: torch.Tensor) -> None:
        """Begin.

        Args:
            model: inside `prefixkv.cache.attention.installed`.
            cache: has read the prompt.
            logits: (1, vocabulary), float32, after the prompt.
        """
        self._model, self.cache, self.logits = model, cache, logits

    def read(self, tokens: Sequence[int]) -> None:
        """Feed tokens: one is a decode step, several are a chunk, which is compacted as a further turn's prompt is."""
        model: Any = self._model
        ids = torch.tensor([list(tokens)], device=self.logits.device)
        output = model(input_ids=ids, **cache_argument(self.cache), use_cache=True, logits_to_keep=1)
        self.logits = output.logits[:, -1].float()

    def copy(self) -> State:
        """The same state on buffers of its own."""
        return State(self._model, copy_of(self.cache, self.logits.device), self.logits)


class Continuation(ABC):
    """One continuation.

    Attributes:
        tokens: what was read, and last what was predicted.
        losses: negative log-likelihood of every token, in nats.
        usages: what the cache held at every prediction.
        predictions: (vocabulary,), float32, log-probabilities at every token; empty where they are not kept.
    """

    def __init__(self, keeps_predictions: bool = False) -> None:
        self._keeps_predictions = keeps_predictions
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self.usages: list[CacheUsage] = []
        self.predictions: list[torch.Tensor] = []

    def next(self, logits: torch.Tensor, usage: CacheUsage) -> int | None:
        """Note a prediction.

        Args:
            logits: (1, vocabulary), float32.
            usage: what the cache holds.

        Returns:
            The token to be read next; None where nothing more is to be predicted.
        """
        predicted = logits[0].log_softmax(dim=-1)
        token = self._choose(predicted, logits)
        self.tokens.append(token)
        self.losses.append(-float(predicted[token]))
        self.usages.append(usage)
        if self._keeps_predictions:
            self.predictions.append(predicted)
        return None if self._has_ended() else token

    @abstractmethod
    def _choose(self, predicted: torch.Tensor, logits: torch.Tensor) -> int:
        """The next token, from (vocabulary,) log-probabilities and the (1, vocabulary) logits that they are of."""

    @abstractmethod
    def _has_ended(self) -> bool:
        """Whether the last token was the last."""


class GivenText(Continuation):
    """Teacher-forced: the tokens are given.

    Attributes:
        divergences: KL(full || this) at every token, in nats; empty without the full cache's predictions.
    """

    def __init__(self, text: Sequence[int], full: Sequence[torch.Tensor] = (), keeps_predictions: bool = False) -> None:
        """Begin.

        Args:
            text: at least one token.
            full: the full cache's log-probabilities of the same text, for the divergence.
            keeps_predictions: whether all log-probabilities are kept.
        """
        super().__init__(keeps_predictions)
        self._text, self._full = text, full
        self.divergences: list[float] = []

    def _choose(self, predicted: torch.Tensor, logits: torch.Tensor) -> int:
        if self._full:
            full = self._full[len(self.tokens)]
            # Rounding can leave a trifle below 0 where both are the same.
            self.divergences.append(max(0.0, float((full.exp() * (full - predicted)).sum())))
        return self._text[len(self.tokens)]

    def _has_ended(self) -> bool:
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
    ) -> None:
        """Begin.

        Args:
            stops: tokens that end the answer.
            most_tokens: longest answer.
            keeps_predictions: whether all log-probabilities are kept.
            shaping: what the model's settings do to the logits; None for nothing. Losses are the model's own.
            watch: for texts that end the answer; None for none.
        """
        super().__init__(keeps_predictions)
        self._stops, self._most_tokens, self._shaping, self._watch = stops, most_tokens, shaping, watch

    def _choose(self, predicted: torch.Tensor, logits: torch.Tensor) -> int:
        if self._shaping is None:
            return int(predicted.argmax())
        token = self._shaping(logits).argmax(dim=-1)
        self._shaping.push(token)
        return int(token)

    def _has_ended(self) -> bool:
        if self._watch is not None and self._watch.push(self.tokens[-1]):
            return True
        return self.tokens[-1] in self._stops or len(self.tokens) == self._most_tokens


def part(state: State, followed: Sequence[Continuation]) -> list[tuple[State, int, list[Continuation]]]:
    """Have continuations note a prediction, and part those that go on with different tokens.

    Args:
        state: what they share; used up.
        followed: begun and not ended.

    Returns:
        For every next token a state of its own that has yet to read it, the token, and who goes on with it.
    """
    usage = state.cache.usage()
    agreeing: dict[int, list[Continuation]] = {}
    for continuation in followed:
        token = continuation.next(state.logits, usage)
        if token is not None:
            agreeing.setdefault(token, []).append(continuation)
    states = [state, *(state.copy() for _ in range(len(agreeing) - 1))]
    return [(branch, token, group) for branch, (token, group) in zip(states, agreeing.items(), strict=False)]


def follow(state: State, continuations: Sequence[Continuation]) -> None:
    """Follow continuations to their ends, every token a step of a single row.

    Args:
        state: after the prompt; used up.
        continuations: begun; what they note is in them afterwards.
    """
    pending: list[tuple[State, Sequence[Continuation]]] = [(state, continuations)]
    while pending:
        for branch, token, group in part(*pending.pop()):
            branch.read([token])
            pending.append((branch, group))


def follow_together(model: PreTrainedModel, begun: Sequence[tuple[State, Sequence[Continuation]]]) -> None:
    """Follow continuations on several caches to their ends, all with one step of the model a token.

    Reading the weights, not the cache, is what a step of a single prompt costs; so all cells together cost little more
    than one. The rows differ in rounding only: a batch multiplies its matrices in another order than a single row does.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        begun: states of one row each, which are used up, and what is to be followed from each. What one continuation
            needs of another one's predictions must come behind it.
    """
    branches = list(begun)
    while branches:
        parted = [branch for state, followed in branches for branch in part(state, followed)]
        for start in range(0, len(parted), ROWS):
            together = parted[start : start + ROWS]
            cache = PrefixKVCache.of_rows([state.cache.row for state, _, _ in together])
            tokens = torch.tensor([token for _, token, _ in together], device=together[0][0].logits.device)
            logits = read_tokens(model, cache, tokens)
            for row, (state, _, _) in enumerate(together):
                state.logits = logits[row : row + 1]
        branches = [(state, followed) for state, _, followed in parted]
