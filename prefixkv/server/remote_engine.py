"""An engine in another process, asked as one that is here."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from prefixkv.engine.counts import Counts
from prefixkv.engine.stream import Stream
from prefixkv.errors import EngineLostError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt
from prefixkv.models.download import Progress
from prefixkv.models.frontend import Frontend, read_frontend
from prefixkv.models.loading import choose_model
from prefixkv.policy.budget import Budget
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.loading import Loading
from prefixkv.server.engine_process import EngineOrder, EngineProcess
from prefixkv.server.wire import (
    Cancellation,
    CountsQuestion,
    Ending,
    Failure,
    Growth,
    Notice,
    Ready,
    Reply,
    Submission,
    Wire,
)

Notify = Callable[[str], None]


class RemoteStream(Stream):
    """The tokens of an answer that another process gives."""

    def cancel(self) -> None:
        """End the answer with the tokens that are there, when the other process has heard of it."""
        super().cancel()
        self._owner.cancel(self.number)


class RemoteEngine:
    """Speaks with the engine of a process; all methods may be called from any thread.

    Attributes:
        generation_config: of the model.
        memory_bytes: for the caches of all requests.
        peak_bytes: most memory so far, of the process or of its GPU, as it was told last.
        failure: why there is no engine any more; None while there is one.
    """

    def __init__(self, process: EngineProcess, notify: Notify = lambda text: None) -> None:
        """Begin; nothing is ordered yet.

        Args:
            process: runs.
            notify: called with one line for each thing that the user should know once the model is loaded.
        """
        self._process, self._notify, self._wire = process, notify, Wire(process.pipe)
        self.generation_config: Any = None
        self.memory_bytes = self.peak_bytes = 0
        self.failure: PrefixKVError | None = None
        self._numbers = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._replies: dict[int, Future[Any]] = {}
        self._lock, self._is_closed = threading.Lock(), False
        self._when_lost: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None

    def order(self, order: EngineOrder) -> None:
        """Say what is to be loaded; returns at once."""
        self._wire.post(order)

    def wait(self, notify: Notify = lambda text: None) -> None:
        """Until the model is loaded; from then on it can be asked.

        Args:
            notify: called with one line for each thing that the user should know about the model.

        Raises:
            PrefixKVError: the model cannot be loaded, or the process has ended.
        """
        try:
            while not isinstance(message := self._wire.receive(), Ready):
                if isinstance(message, Failure):
                    raise message.error
                notify(message.text)
        except (EOFError, OSError):
            raise self._ended() from None
        self.generation_config, self.memory_bytes = message.generation_config, message.memory_bytes
        self._thread = threading.Thread(target=self._receive, name="prefixkv-answers", daemon=True)
        self._thread.start()

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have it called, once and in any thread, when the process has ended without being told to."""
        with self._lock:
            self._when_lost = call
            is_lost = self.failure is not None
        if is_lost:
            call()

    def submit(
        self,
        prompt: Prompt,
        budget: Budget | PrefixConfig,
        sampling: Sampling,
        *,
        on_end: Callable[[Stream], None] = lambda stream: None,
        on_token: Callable[[Stream], None] = lambda stream: None,
        **options: Any,
    ) -> Stream:
        """Ask; returns when the engine has taken the request.

        Args:
            prompt: the whole conversation.
            budget: what this request's cache may keep.
            sampling: how tokens are chosen.
            on_end: called with the stream when the answer has ended, in a thread that it must not hold up.
            on_token: called with the stream when tokens have come, likewise.
            **options: further ones of `Engine.submit`.

        Raises:
            PrefixKVError: see `Engine.submit`; or the process has ended.
        """
        number = next(self._numbers)
        stream = RemoteStream(number, prompt.tokens, self, on_end, on_token)
        with self._lock:
            self._streams[number] = stream
        try:
            given = {"budget": budget, "sampling": sampling, **options}
            self._ask(number, Submission(number, prompt.portable(), given))
        except Exception:
            with self._lock:
                self._streams.pop(number, None)
            raise
        return stream

    def counts(self) -> Counts:
        """How much it has to do and how many bytes that takes, all at one moment.

        Raises:
            PrefixKVError: the process has ended.
        """
        number = next(self._numbers)
        counts: Counts = self._ask(number, CountsQuestion(number))
        return counts

    def cancel(self, number: int) -> None:
        """Nobody wants an answer any more."""
        self._wire.post(Cancellation(number))

    def close(self) -> None:
        """Cancel what is not answered yet, and end the process; harmless when it was called before."""
        with self._lock:
            is_closed, self._is_closed = self._is_closed, True
        if is_closed:
            return
        if self._thread is None:
            self._process.end(0)
            return
        self._wire.post(Ending())
        self._process.end()
        self._thread.join()

    def _ask(self, number: int, message: Any) -> Any:
        """Send a message and wait for the reply to it."""
        reply: Future[Any] = Future()
        with self._lock:
            if self.failure is not None:
                raise self.failure
            self._replies[number] = reply
        self._wire.post(message)
        content = reply.result()
        if isinstance(content, Exception):
            raise content
        return content

    def _receive(self) -> None:
        try:
            while True:
                self._take(self._wire.receive())
        except (EOFError, OSError):
            self._lose()

    def _take(self, message: Reply | Growth | Notice) -> None:
        if isinstance(message, Notice):
            self._notify(message.text)
        elif isinstance(message, Reply):
            with self._lock:
                reply = self._replies.pop(message.number)
            reply.set_result(message.content)
        else:
            self.peak_bytes = message.peak_bytes or self.peak_bytes
            for number, tokens, logprobs, end in message.streams:
                self._grow(number, tokens, logprobs, end)

    def _grow(self, number: int, tokens: list[int], logprobs: list[Any], end: Any) -> None:
        stream = self._streams[number]
        for token, scored in itertools.zip_longest(tokens, logprobs):
            stream.push(token, scored)
        if end is None:
            stream.tell()
            return
        with self._lock:
            del self._streams[number]
        stream.cached_tokens = end.cached_tokens
        if end.error is not None:
            stream.fail(end.error)
        else:
            stream.end(end.reason, end.usage)

    def _lose(self) -> None:
        """The process has ended: nobody must wait for what does not come."""
        failure = PrefixKVError("the engine is closed: make another") if self._is_closed else self._ended()
        with self._lock:
            self.failure = failure
            replies, streams = list(self._replies.values()), list(self._streams.values())
            self._replies, self._streams = {}, {}
            call = self._when_lost
        for reply in replies:
            reply.set_result(failure)
        for stream in streams:
            stream.fail(failure)
        if not self._is_closed:
            call()

    def _ended(self) -> EngineLostError:
        code = self._process.end()
        return EngineLostError(
            f"the engine's process has ended with code {code}, perhaps for lack of memory: start the server again"
        )


def open_engine(
    process: EngineProcess, loading: Loading, options: Mapping[str, Any], notify: Notify, progress: Progress
) -> tuple[Frontend, RemoteEngine]:
    """Have a process load a model, and read here, at the same time, what makes its prompts.

    Args:
        process: runs, and nothing was ordered of it.
        loading: the model, as the user has named it.
        options: further arguments of `Engine`.
        notify: called with one line for each thing that the user should know.
        progress: called with the bytes that are here and the bytes in all while the model is downloaded.

    Raises:
        PrefixKVError: see `load_model` and `Engine`; or the process has ended.
    """
    told = set[str]()

    def tell_once(text: str) -> None:
        # Both processes look at the same files.
        if text not in told:
            told.add(text)
            notify(text)

    chosen = choose_model(loading.name, loading.device, loading.dtype, tell_once, loading.placement, progress)
    engine = RemoteEngine(process, notify)
    engine.order(EngineOrder(dataclasses.replace(loading, name=chosen.id).load, options))
    frontend = read_frontend(chosen.id, loading.placement.trust_remote_code)
    engine.wait(tell_once)
    return dataclasses.replace(frontend, generation_config=engine.generation_config), engine
