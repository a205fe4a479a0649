"""The engine: many requests at one model, each answered as if it were alone, from any number of threads."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.cache.compaction import small_bytes
from prefixkv.cache.reading_graphs import MOST_TOKENS
from prefixkv.cache.row import CacheRow
from prefixkv.decoder.stages import layer_devices
from prefixkv.engine.admission import Footprint, Ledger
from prefixkv.engine.beside import readers_on
from prefixkv.engine.counts import Counts
from prefixkv.engine.kept import CacheName, KeptCaches
from prefixkv.engine.memory import Memory, memory_limits, peak_bytes
from prefixkv.engine.prefix import Prefixes, SharedPart
from prefixkv.engine.request import Request
from prefixkv.engine.scheduler import Scheduler
from prefixkv.engine.stream import Stream
from prefixkv.engine.trace import Trace
from prefixkv.engine.turns import AHEAD
from prefixkv.engine.worker import Worker
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.generation.choice import seed_of
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import shaping_of
from prefixkv.generation.stop_text import stop_texts, stop_watch
from prefixkv.inputs.positions import answer_room
from prefixkv.inputs.prompts import Prompt
from prefixkv.inputs.token_ids import end_tokens
from prefixkv.kernels.dispatch import reads_in_kernels
from prefixkv.methods.method import Method
from prefixkv.methods.table import DEFAULT_METHOD
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import LoadedModel
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, Codec
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.guidance import make_cache

ALLOWANCE = 192
"""Prompt tokens that are read between two steps of running rows, so that a long prompt does not stall them."""


class Engine:
    """Answers requests together: each prompt is read alone, and all rows that run take their steps together.

    The bytes that a request may ever hold are reserved before it is read, so that no row runs out of memory while it
    decodes. Requests begin in the order in which they came. Pictures with which several of those that wait begin are
    read once, and every prompt keeps what it would keep alone. All methods may be called from any thread; the model
    computes in a thread of the engine's own, which lives while there are requests. In float32 a request's tokens are
    those that it gives alone, whatever runs beside it.

    Attributes:
        memory_bytes: for the caches of all requests that are read or run, on all devices together.
    """

    def __init__(
        self,
        model: PreTrainedModel | LoadedModel,
        method: str | Method = DEFAULT_METHOD,
        memory: Memory = None,
        most_rows: int = 64,
        allowance: int | None = ALLOWANCE,
        trace: Path | str | None = None,
        notify: Callable[[str], None] = lambda text: None,
        codec: str | Codec = DEFAULT_CODEC,
    ) -> None:
        """Make an engine without requests.

        Args:
            model: of transformers, or from `prefixkv.load_model`.
            method: name of a method; a request with a configuration brings its own.
            memory: for the caches of all requests, such as `"4GiB"` or a number of bytes; 60 % of what is free on a
                GPU, 1 GiB elsewhere, where None. Of a model over several GPUs one size is for all of them together;
                `"20GB,10GB"`, a sequence or a mapping from the devices' names gives each one that holds compressed
                layers a limit of its own, in the order of the layers.
            most_rows: requests that run at the same time.
            allowance: prompt tokens that may be read between two steps of the rows that run, which take them between
                the layers of the pass that reads. More begins requests sooner, fewer keeps the time between two
                tokens even. None: prompts are read as soon as they fit, each in one go, on CPU cores two at once.
            trace: a file for a trace of reads, steps and admissions, for chrome://tracing or Perfetto.
            notify: called with one line for each thing that the user should know.
            codec: in which precision entries are stored; a request with a configuration brings its own.

        Raises:
            OptionError: unknown method or codec, a number that is not allowed, or limits of other devices than those
                that hold compressed layers.
            PrefixKVError: the model cannot be compressed, or the trace cannot be written.
        """
        if most_rows < 1 or (allowance is not None and allowance < 1):
            raise OptionError(f"most_rows {most_rows} and allowance {allowance} must be 1 or more")
        self._model: Any = model.model if isinstance(model, LoadedModel) else model
        self._tokenizer = model.tokenizer if isinstance(model, LoadedModel) else None
        self._identity = model.identity if isinstance(model, LoadedModel) else ModelIdentity.of_model(model)
        self._stop_tokens = frozenset(end_tokens(self._model, self._tokenizer))
        self._method, self._codec, self._notify = method, codec, notify
        places, device = self._places(), self._model.device
        ledger = Ledger(memory_limits(memory, device, places), map(str, places))
        self.memory_bytes, self._divided = ledger.memory_bytes, ledger.layers
        self._new_row("100%")
        self._numbers, self._is_closed = itertools.count(1), False
        self._trace = Trace(None if trace is None else Path(trace))
        pace = allowance, MOST_TOKENS if reads_in_kernels(device) else 0, readers_on(device, allowance)
        scheduler: Scheduler[Request] = Scheduler(ledger, most_rows, *pace)
        self._worker = Worker(self._model, scheduler, most_rows, self._trace, notify)
        # Also when the interpreter ends, before the libraries below are taken down.
        self._finalizer = weakref.finalize(self, _stop, self._worker, self._trace)

    def submit(
        self,
        inputs: Mapping[str, torch.Tensor] | Prompt,
        budget: str | float | Budget | PrefixConfig = "20%",
        sampling: Sampling | None = None,
        deadline: float | None = None,
        stop_tokens: Collection[int] | None = None,
        on_end: Callable[[Stream], None] = lambda stream: None,
        left_out: Collection[int] | None = None,
        method: str | Method | None = None,
        codec: str | Codec | None = None,
        owner: str = "",
        keep: bool = False,
        on_token: Callable[[Stream], None] = lambda stream: None,
    ) -> Stream:
        """Ask; returns at once.

        Args:
            inputs: a prompt, or the model's inputs, `input_ids` (1, tokens) among them, without padding.
            budget: what this request's cache may keep, as `Budget.parse` reads it; or a configuration.
            sampling: how tokens are chosen; greedy, at most 512 tokens, where None, and never more than the model has
                positions. With a seed the answer is the same whatever else is asked. The tokens that spell one of its
                stop texts are the last ones.
            deadline: seconds from now after which the answer ends as it is.
            stop_tokens: that end the answer; the model's own where None.
            on_end: called with the stream when the answer has ended, in the engine's thread, which it must not hold up.
            left_out: ids that leave no text in which a stop text may be found; all special tokens where None.
            method: name of a method; the engine's where None.
            codec: name of a codec; the engine's where None.
            owner: whose request this is: no part of its cache is used for another owner's.
            keep: whether the prompt, which is a `Prompt` then, goes on from the cache that its earlier turns have left
                where that was kept, and leaves its own. Kept caches go where others need their memory.
            on_token: called with the stream when tokens have come, in the engine's thread, as `on_end` is, while that
                waits for a device or before it reads on.

        Returns:
            The answer's tokens as they come.

        Raises:
            OptionError: an option has a value that is not allowed; or there are stop texts and no tokenizer.
            BudgetTooSmallError: the request does not fit the memory, or its budget what the method must keep.
            PrefixKVError: the inputs are no single prompt, they fill the model's positions, or the engine is closed.
        """
        if deadline is not None and deadline <= 0:
            raise OptionError(f"deadline {deadline} is over: give the seconds that the answer may take")
        tensors = inputs.inputs if isinstance(inputs, Prompt) else inputs
        ids = tensors["input_ids"]
        if ids.ndim != 2 or ids.shape[0] != 1 or ids.shape[1] == 0:
            raise PrefixKVError(f"input_ids are of shape {tuple(ids.shape)}: give one prompt, of shape (1, tokens)")
        sampling = sampling or Sampling()
        sampling = replace(sampling, seed=seed_of(sampling))
        texts = stop_texts(sampling, self._model.generation_config)
        if texts and self._tokenizer is None:
            raise OptionError(
                f"stop text {texts[0]!r} needs a tokenizer: give the engine a model of prefixkv.load_model"
            )
        sampling = sampling.within(answer_room(self._model.config, ids.shape[1]), self._notify)
        row = self._new_row(budget, method, codec)
        footprint = self._footprint(row, ids.shape[1], sampling.max_new_tokens)
        stops = self._stop_tokens if stop_tokens is None else frozenset(stop_tokens)
        stream = Stream(next(self._numbers), ids.shape[1], self, on_end, on_token)
        ends_at = None if deadline is None else stream.submitted_at + deadline
        shaping = shaping_of(self._model, ids, sampling.max_new_tokens)
        watch = stop_watch(self._tokenizer, texts, left_out)
        shared = SharedPart.of(self._model, tensors, row, owner)
        request = Request(dict(tensors), row, sampling, stops, footprint, stream, shaping, watch, ends_at, shared)
        if keep:
            if not isinstance(inputs, Prompt):
                raise PrefixKVError("the cache of a prompt is kept, and this is none: give a Prompt")
            request.prompt, request.name = inputs, CacheName.of(inputs, owner, row)
        with self._worker.lock:
            if self._is_closed:
                raise PrefixKVError("the engine is closed: make another")
            self._worker.scheduler.add(request)
            self._worker.start()
        return stream

    def footprint(self, prompt_tokens: int, budget: str | float | Budget | PrefixConfig, new_tokens: int) -> Footprint:
        """The bytes that a request would reserve.

        Args:
            prompt_tokens: of its prompt.
            budget: as for `submit`.
            new_tokens: longest answer.
        """
        return self._footprint(self._new_row(budget), prompt_tokens, new_tokens)

    def counts(self) -> Counts:
        """How much it has to do and how many bytes that takes, all at one moment."""
        with self._worker.lock:
            return Counts.of(self._worker)

    @property
    def reserved_bytes(self) -> int:
        """Bytes that are reserved now."""
        with self._worker.lock:
            return self._worker.scheduler.ledger.reserved_bytes

    @property
    def peak_bytes(self) -> int:
        """Most memory so far, of the model's GPU as torch has allocated it, or of this process."""
        return peak_bytes(self._model.device)

    @property
    def prefixes(self) -> Prefixes:
        """What several requests begin with, and how often that was so."""
        return self._worker.prefixes

    @property
    def kept(self) -> KeptCaches:
        """Caches that later prompts may go on from; their bytes are reserved."""
        return self._worker.kept

    @property
    def prefix_bytes(self) -> int:
        """Bytes, of those reserved, of what several requests begin with."""
        with self._worker.lock:
            return self._worker.prefixes.bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the entries that running requests hold, as they were a moment ago."""
        return self._worker.used_bytes

    @property
    def generated_tokens(self) -> int:
        """Tokens that were given to all streams so far."""
        return self._worker.generated_tokens

    @property
    def running(self) -> int:
        """Requests that run now."""
        with self._worker.lock:
            return len(self._worker.scheduler.running)

    def close(self) -> None:
        """Cancel what is not answered yet, and free everything; harmless when it was called before."""
        with self._worker.lock:
            self._is_closed = True
        self._finalizer()

    def __enter__(self) -> Engine:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _new_row(
        self,
        budget: str | float | Budget | PrefixConfig,
        method: str | Method | None = None,
        codec: str | Codec | None = None,
    ) -> CacheRow:
        chosen = method or self._method, self._notify, codec or self._codec
        return make_cache(self._model, self._identity, budget, *chosen).row

    def _footprint(self, row: CacheRow, prompt_tokens: int, new_tokens: int) -> Footprint:
        tokens, small = (prompt_tokens, new_tokens - 1 + AHEAD), small_bytes(self._model.device)
        # A configuration's shares are whatever it says.
        even_share = row.method.even_share if row.keep_fractions is None else Fraction(0)
        return Footprint.of(row.capacity, *tokens, small, self._divided, even_share)

    def _places(self) -> list[torch.device]:
        """Where each compressed layer is; nothing where the model's layers are not to be found."""
        devices = layer_devices(self._model)
        return [devices[place] for place in self._identity.geometry.compressed_layers] if devices else []


def _stop(worker: Worker, trace: Trace) -> None:
    with worker.lock:
        requests = worker.scheduler.all()
    for request in requests:
        request.stream.cancel()
    worker.join()
    with worker.lock:
        worker.kept.clear()
    trace.close()
