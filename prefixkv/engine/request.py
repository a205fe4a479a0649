"""A request: a prompt, what its row may keep, how its tokens are chosen, and where its answer goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from prefixkv.cache.row import CacheRow
from prefixkv.engine.admission import Footprint
from prefixkv.engine.pauses import PassInterruptedError
from prefixkv.engine.stream import FinishReason, Stream
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import Shaping
from prefixkv.generation.stop_text import StopWatch

if TYPE_CHECKING:
    from prefixkv.engine.kept import CacheName
    from prefixkv.engine.prefix import SharedPart
    from prefixkv.generation.logprobs import Logprobs
    from prefixkv.inputs.prompts import Prompt


@dataclass(eq=False)
class Request:
    """One prompt on its way to its answer.

    Attributes:
        inputs: the model's inputs, `input_ids` (1, prompt_tokens) among them; freed once they are read.
        row: where its entries go; empty at first.
        sampling: how its tokens are chosen, the seed given.
        stop_tokens: tokens that end the answer.
        footprint: its bytes.
        stream: of its tokens.
        shaping: what the model's settings do to its logits; None for nothing.
        watch: for texts that end the answer; None for none.
        deadline: seconds of `time.perf_counter` at which it ends; None for none.
        shared: the part of its prompt that others may begin with; None for none.
        prompt: its conversation, where its cache stays for a later one; freed once it is read.
        name: of its cache, likewise; None where it goes when the answer has ended.
        place: of its row in the step, while it takes steps; -1 otherwise.
        queued: steps of its row whose tokens it was not given.
    """

    inputs: Mapping[str, torch.Tensor]
    row: CacheRow
    sampling: Sampling
    stop_tokens: frozenset[int]
    footprint: Footprint
    stream: Stream
    shaping: Shaping | None = None
    watch: StopWatch | None = None
    deadline: float | None = None
    shared: SharedPart | None = None
    prompt: Prompt | None = None
    name: CacheName | None = None
    place: int = field(default=-1, init=False)
    queued: int = field(default=0, init=False)
    _given: int = field(default=0, init=False)

    @property
    def number(self) -> int:
        """Its own."""
        return self.stream.number

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt."""
        return self.stream.prompt_tokens

    @property
    def has_all_steps(self) -> bool:
        """Whether the longest answer needs no further step than those that are queued."""
        return self._given + self.queued >= self.sampling.max_new_tokens

    def push(self, token: int, logprobs: Logprobs | None = None) -> FinishReason | None:
        """Give a token to the stream, with how likely it was where that was asked for.

        Returns:
            Why it is the last one; None where more follow.
        """
        self.stream.push(token, logprobs)
        self._given += 1
        if token in self.stop_tokens or (self.watch is not None and self.watch.push(token)):
            return "stop"
        return "length" if self._given == self.sampling.max_new_tokens else None

    def interruption(self) -> FinishReason | None:
        """Why it is to end now, whatever it has said; None where it goes on."""
        if self.stream.is_cancelled:
            return "cancelled"
        return "deadline" if self.deadline is not None and time.perf_counter() >= self.deadline else None

    def check_is_wanted(self) -> None:
        """Look whether its prompt is to be read on.

        Raises:
            PassInterruptedError: it need not be.
        """
        if reason := self.interruption():
            raise PassInterruptedError(reason)
