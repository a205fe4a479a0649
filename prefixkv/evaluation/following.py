"""Continuations followed to their ends, from one compressed prompt or from many.

Several continuations of one prompt share its cache as long as they agree; where they part, the cache is copied. Every
token is one step of the real decode path, eviction included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.snapshot import copy_of
from prefixkv.evaluation.continuation import Continuation, Kept
from prefixkv.evaluation.given_steps import GivenSteps
from prefixkv.models.loading import Notify
from prefixkv.transformers_compat import cache_argument

ROWS = 64
"""Most rows that are one batch of those that are followed together."""


class State:
    """A cache and what the model predicts from it.

    Attributes:
        cache: of one row: what was read so far, compressed.
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
        return State(self._model, copy_of(self.cache), self.logits)


Branch = tuple[State, int, list[Continuation]]
"""A state that has yet to read a token, the token, and who goes on with it."""


def part(asked: Sequence[tuple[State, Sequence[Continuation]]]) -> list[Branch]:
    """Have continuations note a prediction, and part those that go on with different tokens.

    What is computed is computed of all states at once, and fetched from the device at once.

    Args:
        asked: states, which are used up, and what is begun from each and has not ended.

    Returns:
        Those that go on, state by state in order.
    """
    logits = torch.cat([state.logits for state, _ in asked])
    predicted = logits.log_softmax(dim=-1)
    likeliest = predicted.argmax(dim=-1).tolist()
    noting = [(row, each) for row, (_, followed) in enumerate(asked) for each in followed]
    tokens = [each.choose(likeliest[row], logits[row : row + 1]) for row, each in noting]
    at = torch.tensor([[row for row, _ in noting], tokens], device=logits.device)
    losses = -predicted[at[0], at[1]]
    compared = [(place, full) for place, (_, each) in enumerate(noting) if (full := each.full_prediction) is not None]
    if compared:
        fulls = torch.stack([full for _, full in compared])
        rows = torch.tensor([noting[place][0] for place, _ in compared], device=logits.device)
        losses = torch.cat([losses, (fulls.exp() * (fulls - predicted[rows])).sum(dim=-1)])
    fetched = losses.tolist()
    for (place, _), divergence in zip(compared, fetched[len(noting) :], strict=True):
        # Rounding can leave a trifle below 0 where both are the same.
        noting[place][1].divergences.append(max(0.0, divergence))
    agreeing: list[dict[int, list[Continuation]]] = [{} for _ in asked]
    kept: dict[int, Kept] = {}
    for (row, each), token, loss in zip(noting, tokens, fetched, strict=False):
        each.tokens.append(token)
        each.losses.append(loss)
        if each.weighs:
            if row not in kept:
                kept[row] = Kept.by(asked[row][0].cache.row)
            each.kept.append(kept[row])
        if each.keeps_predictions:
            each.predictions.append(predicted[row].clone())
        if not each.has_ended():
            agreeing[row].setdefault(token, []).append(each)
    return [branch for (state, _), groups in zip(asked, agreeing, strict=True) for branch in _branches(state, groups)]


def _branches(state: State, groups: dict[int, list[Continuation]]) -> list[Branch]:
    """A state for each token: the first has the state itself, the others copies."""
    states = [state, *(state.copy() for _ in range(len(groups) - 1))]
    return [(branch, token, group) for branch, (token, group) in zip(states, groups.items(), strict=False)]


def follow(state: State, continuations: Sequence[Continuation]) -> None:
    """Follow continuations to their ends, every token a step of a single row.

    Args:
        state: after the prompt; used up.
        continuations: begun; what they note is in them afterwards.
    """
    pending: list[tuple[State, Sequence[Continuation]]] = [(state, continuations)]
    while pending:
        for branch, token, group in part([pending.pop()]):
            branch.read([token])
            pending.append((branch, group))


class Following:
    """Continuations on several caches, followed with one step of the model a token for up to `ROWS` of them.

    Reading the weights, not the cache, is what a step of a single prompt costs; so all together cost little more than
    one. The figures differ from those of `follow` in rounding only: a batch multiplies its matrices in another order
    than a single row does. They depend on what is followed together, and on nothing that was followed before.
    """

    def __init__(self, model: PreTrainedModel, most_rows: int, notify: Notify) -> None:
        """Nothing is followed yet.

        Args:
            model: inside `prefixkv.cache.attention.installed`.
            most_rows: all that may be followed at the same time: as many as there are continuations.
            notify: told why, once for each model, where steps on a CUDA device are not captured.
        """
        self._places = min(ROWS, 1 << max(0, most_rows - 1).bit_length())
        self._steps = GivenSteps(model, self._places, notify)

    def read(self, given: Sequence[tuple[State, Sequence[int]]]) -> None:
        """Have states read tokens that are given, every token a decode step.

        Args:
            given: states and what each is to read, which may be nothing.
        """
        left = deque((state, deque(tokens)) for state, tokens in given if tokens)
        while left:
            reading = [left.popleft() for _ in range(min(len(left), self._places))]
            self._read([(state, tokens.popleft()) for state, tokens in reading])
            left.extendleft(reversed([(state, tokens) for state, tokens in reading if tokens]))

    def follow(self, begun: Sequence[tuple[State, Sequence[Continuation]]]) -> None:
        """Follow continuations to their ends.

        Args:
            begun: states, which are used up, and what is to be followed from each.
        """
        left = deque(part(begun))
        while left:
            reading = [left.popleft() for _ in range(min(len(left), self._places))]
            self._read([(state, token) for state, token, _ in reading])
            left.extendleft(reversed(part([(state, group) for state, _, group in reading])))

    def _read(self, reading: Sequence[tuple[State, int]]) -> None:
        logits = self._steps.read([(state.cache.row, token) for state, token in reading])
        for row, (state, _) in enumerate(reading):
            state.logits = logits[row : row + 1]
