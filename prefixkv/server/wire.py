"""What goes between the process that speaks HTTP and the one that has the model: messages, and the pipe for them."""

from __future__ import annotations

import enum
import io
import pickle
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from prefixkv.cache.usage import CacheUsage
from prefixkv.engine.counts import Counts
from prefixkv.engine.stream import FinishReason
from prefixkv.errors import PrefixKVError
from prefixkv.generation.logprobs import Logprobs
from prefixkv.inputs.prompts import Prompt

PROTOCOL = 5


@dataclass(frozen=True)
class Submission:
    """A request on its way to the engine.

    Attributes:
        number: by which all further messages speak of it.
        prompt: as `Prompt.portable` gives it.
        options: further arguments of `Engine.submit`.
    """

    number: int
    prompt: Prompt
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Cancellation:
    """Nobody wants the answer to a request any more."""

    number: int


@dataclass(frozen=True)
class CountsQuestion:
    """Asks for the engine's counts.

    Attributes:
        number: of the reply to it; no request has the same.
    """

    number: int


@dataclass(frozen=True)
class Ending:
    """The engine is to close."""


@dataclass(frozen=True)
class Reply:
    """What became of a submission, or of a question.

    Attributes:
        number: of what is replied to.
        content: None for a request that was taken; the counts; or the error that was met.
    """

    number: int
    content: Counts | Exception | None


@dataclass(frozen=True)
class End:
    """How an answer has ended.

    Attributes:
        reason: None where an error has ended it.
        usage: what its cache held; None where nothing was read.
        cached_tokens: of the prompt, that an earlier prompt had read already.
        error: why there is no more of it; None where there is all.
    """

    reason: FinishReason | None
    usage: CacheUsage | None
    cached_tokens: int
    error: Exception | None


@dataclass(frozen=True)
class Growth:
    """What answers have grown by since the message before.

    Attributes:
        streams: of each that has grown its number, its tokens, their logprobs where they were asked for, and its end,
            None where it goes on.
        peak_bytes: most memory so far; None where no answer has ended, since to ask a GPU takes a while.
    """

    streams: list[tuple[int, list[int], list[Logprobs], End | None]]
    peak_bytes: int | None


@dataclass(frozen=True)
class Notice:
    """One line that the user should know."""

    text: str


@dataclass(frozen=True)
class Failure:
    """Why there is no engine."""

    error: Exception


@dataclass(frozen=True)
class Ready:
    """The model is loaded, and the engine waits for requests.

    Attributes:
        generation_config: of the model.
        memory_bytes: that the engine may reserve.
    """

    generation_config: Any
    memory_bytes: int


class _Sign(enum.Enum):
    """What the thread that sends is told beside bytes."""

    GATHER = enum.auto()
    HANG_UP = enum.auto()


class Wire:
    """One end of a pipe; nobody who has something to say waits for the other end."""

    def __init__(self, pipe: Connection, gather: Callable[[], Any] = lambda: None) -> None:
        """Begin to send.

        Args:
            pipe: to the other process.
            gather: makes the message that is sent for calls of `wake`; None for none.
        """
        self._pipe, self._gather = pipe, gather
        self._outgoing: queue.SimpleQueue[memoryview[int] | _Sign] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="prefixkv-wire", daemon=True)
        self._thread.start()

    def post(self, message: Any) -> None:
        """Have a message sent; to nobody, where the other end has gone."""
        self._outgoing.put(_as_bytes(message))

    def wake(self) -> None:
        """Have a message gathered and sent, in the thread that sends."""
        self._outgoing.put(_Sign.GATHER)

    def receive(self) -> Any:
        """Wait for a message.

        Raises:
            EOFError: the other end has gone.
            OSError: likewise.
        """
        return pickle.loads(self._pipe.recv_bytes())

    def close(self) -> None:
        """Send what was posted, and hang up."""
        self._outgoing.put(_Sign.HANG_UP)
        self._thread.join()
        self._pipe.close()

    def _next(self) -> memoryview[int] | _Sign:
        content = self._outgoing.get()
        return _as_bytes(self._gather()) if content is _Sign.GATHER else content

    def _send(self) -> None:
        try:
            while not isinstance(content := self._next(), _Sign):
                self._pipe.send_bytes(content)
        except OSError:
            # Who receives notices, too, and says so.
            return


def portable(error: Exception) -> Exception:
    """An error that another process can be told; of a kind that is not ours there is the text alone."""
    return error if isinstance(error, PrefixKVError) else RuntimeError(f"{type(error).__name__}: {error}")


def _as_bytes(message: Any) -> memoryview[int]:
    file = io.BytesIO()
    _Pickler(file, PROTOCOL).dump(message)
    return file.getbuffer()


class _Pickler(pickle.Pickler):
    """Writes tensors as numpy's arrays: torch's own way makes an archive of each."""

    def reducer_override(self, value: Any) -> Any:
        # Numpy has no bfloat16.
        if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dtype != torch.bfloat16:
            return torch.from_numpy, (value.detach().contiguous().numpy(),)
        return NotImplemented
