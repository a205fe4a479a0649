"""Steps of rows that come and go: one token for each row a step, chosen on the device."""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.engine.captured_rows import CapturedRows
from prefixkv.generation.choice import RowChoice
from prefixkv.generation.forward import read_tokens
from prefixkv.generation.logprobs import Logprobs, LogprobTensors
from prefixkv.generation.places import place_index
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import Shaping
from prefixkv.kernels.dispatch import plain_path_is_wanted

_told: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def tell_once(model: Any, text: str, notify: Callable[[str], None]) -> None:
    """Say why a model's step is not captured, unless that was said of this model before."""
    if text not in _told.setdefault(model, set()):
        _told[model].add(text)
        notify(text)


@dataclass(frozen=True)
class Arrival:
    """The tokens of a step on their way to the host.

    Attributes:
        places: of the rows that stepped.
        tokens: (most_rows,), int64, on the host, by place.
        event: recorded when they are there; None where they are at once.
        scored: how likely the tokens of rows were that want it told, by place.
    """

    places: list[int]
    tokens: torch.Tensor
    event: torch.cuda.Event | None
    scored: dict[int, LogprobTensors]


class Stepper:
    """A batch of rows of any lengths, budgets and methods.

    On a CUDA device the step of a Llama-like decoder is captured as one graph and replayed; what cannot be captured
    takes transformers' own forward pass, to the same tokens.

    Attributes:
        logprobs: of the tokens that `tokens` has given last, by place, for the rows that want them told.
    """

    def __init__(
        self,
        model: Any,
        most_rows: int,
        notify: Callable[[str], None] = warnings.warn,
        captured: bool | None = None,
    ) -> None:
        """Nobody is here yet.

        Args:
            model: of transformers; inside `prefixkv.cache.attention.installed` while it steps.
            most_rows: rows at the same time.
            notify: told why, once for each model, where a step on a CUDA device is not captured.
            captured: whether steps are captured; None: where they can be, unless PREFIXKV_CAPTURE=0 is in the
                environment.
        """
        self._model, self._notify, self._must = model, notify, captured is True
        if captured is None:
            captured = model.device.type == "cuda" and not plain_path_is_wanted()
        self._captured = CapturedRows(model, most_rows) if captured else None
        self._plain: list[CacheRow | None] = [None] * most_rows
        self._plain_view: PrefixKVCache | None = None
        self._choice = RowChoice(most_rows, model.device)
        self._tokens = torch.zeros(most_rows, dtype=torch.int64, device=model.device)
        # Steps whose tokens nobody has asked for, the oldest first, and what those of fetched ones were copied to.
        self._arrivals: deque[Arrival] = deque()
        self._spare: list[tuple[torch.Tensor, torch.cuda.Event | None]] = []
        self._logits: torch.Tensor | None = None
        # Places of rows whose tokens' probabilities are told, with the number of likeliest tokens beside them.
        self._told: dict[int, int] = {}
        self.logprobs: dict[int, Logprobs] = {}

    def join(self, row: CacheRow, token: int, sampling: Sampling, step: int = 0, shaping: Shaping | None = None) -> int:
        """Take a row in.

        Args:
            row: has read its prompt.
            token: the first of its answer, which the next step reads.
            sampling: how the next ones are chosen; its length is not looked at.
            step: tokens of the answer that were chosen before, this one among them, so that draws go on.
            shaping: what the model's settings do to its logits; has noted these tokens.

        Returns:
            Its place.

        Raises:
            NotCapturableError: it cannot be captured, and that was asked for.
            IndexError: all places are taken.
        """
        taken = set(self.places)
        place = next(place for place in range(len(self._plain) + 1) if place not in taken)
        if place == len(self._plain):
            raise IndexError(f"all {place} places are taken")
        try:
            if self._captured is None or not self._joins(self._captured, place, row):
                self._plain[place], self._plain_view = row, None
            self._tokens[place] = token
            self._choice.set(place, sampling, step, shaping)
        except BaseException:
            self.leave(place)
            raise
        self._told.pop(place, None)
        if sampling.logprobs is not None:
            self._told[place] = sampling.logprobs
        return place

    def _joins(self, rows: CapturedRows, place: int, row: CacheRow) -> bool:
        try:
            rows.join(place, row)
        except NotCapturableError as error:
            if self._must:
                raise
            tell_once(self._model, str(error), self._notify)
            return False
        return True

    @property
    def places(self) -> list[int]:
        """Places that are taken, ascending."""
        plain = [place for place, row in enumerate(self._plain) if row is not None]
        return sorted(plain + (self._captured.places if self._captured else []))

    @property
    def is_captured(self) -> bool:
        """Whether the step of every row that is here is replayed by the device alone."""
        return self._captured is not None and all(row is None for row in self._plain)

    def leave(self, place: int) -> None:
        """Let a row go; it holds what its steps have stored."""
        if self._plain[place] is not None:
            self._plain[place], self._plain_view = None, None
        elif self._captured is not None:
            self._captured.leave(place)

    @torch.no_grad()
    def advance(self) -> None:
        """Queue the step that reads the newest token of each row and chooses the next; a GPU is not waited for.

        The next step may be queued before `tokens` has asked for this one's.

        Raises:
            BudgetTooSmallError: the method of a row keeps everything and its budget is used up.
        """
        places, parts = list[int](), list[torch.Tensor]()
        if self._captured is not None and self._captured.places:
            places += self._captured.places
            parts.append(self._captured.advance(self._tokens))
        plain = [place for place, row in enumerate(self._plain) if row is not None]
        if plain:
            if self._plain_view is None:
                self._plain_view = PrefixKVCache.of_rows([row for row in self._plain if row is not None])
            tokens = self._tokens[place_index(tuple(plain), self._tokens.device)]
            parts.append(read_tokens(self._model, self._plain_view, tokens))
            places += plain
        self._logits = torch.cat(parts) if len(parts) > 1 else parts[0]
        chosen = self._choice(self._logits, places)
        self._tokens[place_index(tuple(places), self._tokens.device)] = chosen
        scored = {
            place: LogprobTensors.of(self._logits[row], chosen[row : row + 1], self._told[place])
            for row, place in enumerate(places)
            if place in self._told
        }
        fetched, event = self._spare.pop() if self._spare else self._new_buffer()
        fetched.copy_(self._tokens, non_blocking=True)
        if event is not None:
            event.record(torch.cuda.current_stream(self._tokens.device))
        self._arrivals.append(Arrival(places, fetched, event, scored))

    def _new_buffer(self) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        on_gpu = self._tokens.is_cuda
        fetched = torch.zeros(self._tokens.shape, dtype=torch.int64, pin_memory=on_gpu)
        return fetched, torch.cuda.Event() if on_gpu else None

    def tokens(self) -> dict[int, int]:
        """The token that each row has from the oldest step that was not asked for, by place; waits for it."""
        arrival = self._arrivals.popleft()
        if arrival.event is not None:
            arrival.event.synchronize()
        fetched = arrival.tokens.tolist()
        self._spare.append((arrival.tokens, arrival.event))
        self.logprobs = {place: scored.fetched() for place, scored in arrival.scored.items()}
        return {place: fetched[place] for place in arrival.places}

    def logits(self) -> torch.Tensor:
        """What the last step's tokens were chosen from, (rows, vocabulary), float32, by the order of its `tokens`."""
        assert self._logits is not None
        return self._logits
