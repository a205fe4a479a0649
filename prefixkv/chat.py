"""A conversation about images on one compressed cache."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image

from prefixkv import attention
from prefixkv.budget import Budget
from prefixkv.cache import PrefixKVCache
from prefixkv.config import PrefixConfig
from prefixkv.decoding import decode
from prefixkv.detokenization import Detokenizer
from prefixkv.errors import DeviceMemoryError, PrefixKVError
from prefixkv.methods import DEFAULT_METHOD, Method
from prefixkv.models import LoadedModel, Notify
from prefixkv.prompts import Prompt, Turn
from prefixkv.sampling import Sampling
from prefixkv.usage import CacheUsage


@dataclass(frozen=True)
class Answer:
    """One answer and what it cost.

    Attributes:
        text: without the white space around it.
        prompt_tokens: tokens that it was given, earlier turns and images included.
        new_tokens: tokens generated, the end token included.
        prefill_seconds: until the first token, image processing included.
        decode_seconds: for the tokens after the first.
        finish_reason: the model ended it, the length limit did, or whoever read it stopped reading.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    prefill_seconds: float
    decode_seconds: float
    finish_reason: Literal["stop", "length", "interrupted"]

    @property
    def tokens_per_second(self) -> float | None:
        """Speed after the first token; None where there was only one."""
        return (self.new_tokens - 1) / self.decode_seconds if self.new_tokens > 1 and self.decode_seconds > 0 else None


class Conversation:
    """Asks a model question after question; later turns read only what is new.

    What was compressed in an earlier turn stays compressed. Where the rendered conversation does not begin with what
    the cache has read (a tokenizer that spells an answer differently), it is read again as a whole, and `notify` says
    so.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        budget: str | float | Budget | PrefixConfig = "20%",
        method: str | Method = DEFAULT_METHOD,
        sampling: Sampling | None = None,
        notify: Notify = lambda text: None,
    ) -> None:
        """Begin a conversation.

        Args:
            loaded: from `prefixkv.load_model`.
            budget: what to keep, as `Budget.parse` reads it; or a configuration, which brings its shares and method.
            method: name of a method; not used with a configuration.
            sampling: how tokens are chosen; greedy, at most 512 tokens, where None.
            notify: called with one line for each thing that the user should know.

        Raises:
            OptionError: unknown budget or method.
            BudgetTooSmallError: a hard limit cannot hold the method's protected entries.
        """
        self.loaded, self.sampling, self._notify = loaded, sampling or Sampling(), notify
        if isinstance(budget, PrefixConfig):
            budget.require_model(loaded.identity)
            self.cache = PrefixKVCache(loaded.geometry, budget.as_budget(), budget.method, budget.keep_fractions)
        else:
            self.cache = PrefixKVCache(loaded.geometry, budget, method)
        self.last_answer: Answer | None = None
        self._turns: list[Turn] = []
        self._read: list[int] = []

    def usage(self) -> CacheUsage:
        """What the cache holds now."""
        return self.cache.usage()

    def peak_device_bytes(self) -> int:
        """Most memory so far: what torch allocated on a CUDA device, else the whole process."""
        if self.loaded.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.loaded.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def clear(self) -> None:
        """Forget the conversation and free its cache."""
        self.cache.reset()
        self._turns.clear()
        self._read.clear()
        self.last_answer = None

    def ask(self, prompt: str, images: Sequence[Image.Image] = ()) -> Generator[str, None, None]:
        """Ask and stream the answer.

        Args:
            prompt: the question.
            images: RGB images that come before it.

        Yields:
            Pieces of the answer. Closing the iterator stops the answer and keeps what was said so far.

        Raises:
            PrefixKVError: the model reads no images.
            DeviceMemoryError: the device's memory is full; the conversation goes on without this question.
        """
        if images and not self.loaded.takes_images:
            raise PrefixKVError(f"model {self.loaded.id!r} reads no images: ask without one, or choose another model")
        turn = Turn(prompt, tuple(images))
        self._turns.append(turn)
        try:
            yield from self._answer(turn)
        except torch.OutOfMemoryError as error:
            self._turns.remove(turn)
            raise DeviceMemoryError(
                f"{self.loaded.device} ran out of memory: give a smaller --budget, a smaller image or a shorter answer"
            ) from error
        finally:
            if turn.answer is None and turn in self._turns:
                self._turns.remove(turn)
            if any(layer.arriving is not None or layer.seen_tokens != len(self._read) for layer in self.cache.layers):
                self._forget_tokens()

    def _answer(self, turn: Turn) -> Generator[str, None, None]:
        started = time.perf_counter()
        inputs, prompt_tokens = self._new_inputs()
        detokenizer = Detokenizer(self.loaded.tokenizer)
        stops = self._stop_tokens()
        text, tokens, first_token_at = "", 0, started
        reason: Literal["stop", "length", "interrupted"] = "interrupted"
        with attention.installed(self.loaded.model):
            steps = decode(self.loaded.model, inputs, self.cache, self.sampling, stops)
            unread = inputs["input_ids"][0].tolist()
            try:
                for token in steps:
                    self._read += unread
                    unread = [token]
                    tokens += 1
                    if tokens == 1:
                        first_token_at = time.perf_counter()
                    reason = "stop" if token in stops else "interrupted"
                    piece = detokenizer.push(token)
                    piece = piece if text else piece.lstrip()
                    text += piece
                    if piece:
                        yield piece
                if reason != "stop":
                    reason = "length"
            finally:
                steps.close()
                if tokens:
                    turn.answer = text.strip()
                    ended = time.perf_counter()
                    self.last_answer = Answer(
                        turn.answer, prompt_tokens, tokens, first_token_at - started, ended - first_token_at, reason
                    )

    def _new_inputs(self) -> tuple[dict[str, Any], int]:
        """Model inputs for what the cache has not read, and the length of the whole prompt in tokens."""
        prompt = Prompt(self.loaded.processor, self._turns)
        if self._read:
            rest = prompt.after(self._read)
            if rest is not None:
                return self.loaded.on_device(rest), prompt.tokens
            self._notify("the conversation so far is read again: it is not spelt as the cache has read it")
            self._forget_tokens()
        return self.loaded.on_device(prompt.inputs), prompt.tokens

    def _stop_tokens(self) -> set[int]:
        stop = self.loaded.model.generation_config.eos_token_id
        stop = self.loaded.tokenizer.eos_token_id if stop is None else stop
        return set(stop) if isinstance(stop, list) else {stop}

    def _forget_tokens(self) -> None:
        self.cache.reset()
        self._read.clear()
