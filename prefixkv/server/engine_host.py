"""The engine's side of the pipe: requests come, and what answers have grown by goes back, one message for each step."""

from __future__ import annotations

import gc
from collections import deque
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from prefixkv.engine.engine import Engine
from prefixkv.engine.stream import Stream
from prefixkv.errors import PrefixKVError
from prefixkv.models.loading import LoadedModel
from prefixkv.server.engine_process import EngineOrder
from prefixkv.server.wire import (
    Cancellation,
    CountsQuestion,
    End,
    Ending,
    Failure,
    Growth,
    Notice,
    Ready,
    Reply,
    Submission,
    Wire,
    portable,
)


def run_engine(pipe: Connection) -> None:
    """Load the model that is ordered, and answer what comes, until the other end hangs up or says so.

    Args:
        pipe: whose first message is an `EngineOrder`.
    """
    host = EngineHost(pipe)
    try:
        host.run()
    except (EOFError, OSError):
        # The other process is gone.
        return
    finally:
        host.close()


class EngineHost:
    """Takes requests in one thread, hears of tokens in the engine's, and sends them in a third."""

    def __init__(self, pipe: Connection) -> None:
        self._wire = Wire(pipe, self._growth)
        self._loaded: LoadedModel | None = None
        self._engine: Engine | None = None
        self._streams: dict[int, Stream] = {}
        # How many tokens of each answer were sent; no longer there when its end was.
        self._sent: dict[int, int] = {}
        self._grown: deque[tuple[int, Stream]] = deque()
        self._is_awake = False

    def run(self) -> None:
        """Load, and answer.

        Raises:
            EOFError: the other end has gone.
            OSError: likewise.
        """
        order: EngineOrder = self._wire.receive()
        notify = self._notify
        try:
            self._loaded = order.load(notify)
            self._engine = Engine(self._loaded, notify=notify, **order.options)
        except Exception as error:
            is_known = isinstance(error, PrefixKVError)
            self._wire.post(Failure(error if is_known else PrefixKVError(f"{type(error).__name__}: {error}")))
            return
        if self._loaded.device.type == "cuda":
            # What is left to a CPU is small, and threads that wait for more of it keep cores busy: with sixteen of them
            # 64 clients got a seventh less.
            torch.set_num_threads(1)
        # What is here stays: nobody needs to look for cycles in it again and again.
        gc.freeze()
        gc.enable()
        self._wire.post(Ready(self._loaded.model.generation_config, self._engine.memory_bytes))
        while not isinstance(message := self._wire.receive(), Ending):
            self._take(message)

    def close(self) -> None:
        """End all requests, and send what there is to be sent."""
        if self._engine is not None:
            self._engine.close()
        self._wire.close()

    def _notify(self, text: str) -> None:
        self._wire.post(Notice(text))

    def _take(self, message: Submission | Cancellation | CountsQuestion) -> None:
        assert self._engine is not None
        if isinstance(message, Cancellation):
            if (stream := self._streams.get(message.number)) is not None:
                stream.cancel()
            return
        content: Any = None
        try:
            if isinstance(message, CountsQuestion):
                content = self._engine.counts()
            else:
                self._submit(self._engine, message)
        except Exception as error:
            content = portable(error)
        self._wire.post(Reply(message.number, content))

    def _submit(self, engine: Engine, asked: Submission) -> None:
        assert self._loaded is not None
        number, changed = asked.number, partial(self._changed, asked.number)
        asked.prompt.processor = self._loaded.processor
        self._sent[number] = 0
        try:
            stream = engine.submit(asked.prompt, on_token=changed, on_end=changed, **asked.options)
        except Exception:
            del self._sent[number]
            raise
        self._streams[number] = stream
        if stream.is_done:
            # Its end may have been sent before it was there.
            self._streams.pop(number, None)

    def _changed(self, number: int, stream: Stream) -> None:
        """An answer has grown or ended; the engine's thread is not held up."""
        self._grown.append((number, stream))
        if not self._is_awake:
            self._is_awake = True
            self._wire.wake()

    def _growth(self) -> Growth:
        """What has come since the last call."""
        # Before looking: who adds one later wakes again.
        self._is_awake = False
        grown: dict[int, Stream] = {}
        while self._grown:
            number, stream = self._grown.popleft()
            grown[number] = stream
        told = [self._told(number, stream) for number, stream in grown.items() if number in self._sent]
        assert self._engine is not None
        return Growth(told, self._engine.peak_bytes if any(end for *_, end in told) else None)

    def _told(self, number: int, stream: Stream) -> tuple[int, list[int], list[Any], End | None]:
        is_done, place = stream.is_done, self._sent[number]
        tokens = stream.tokens_from(place)
        logprobs = stream.logprobs[place : place + len(tokens)]
        self._sent[number] = place + len(tokens)
        if not is_done:
            return number, tokens, logprobs, None
        del self._sent[number]
        self._streams.pop(number, None)
        error = None if stream.error is None else portable(stream.error)
        return number, tokens, logprobs, End(stream.finish_reason, stream.usage, stream.cached_tokens, error)
