"""Parts of the pass that reads a prompt as CUDA graphs: what lies between two attentions, and the blocks of a tower.

A prompt of a few hundred tokens keeps the host busy for three times as long as the device: each of its thousand
launches costs the host more than the kernel takes. What is captured here depends on nothing but its input's size:
attention, scoring and storage stay as they are. A part works on buffers of its own, which hold the prompt's tokens
rounded up to a few sizes, so that prompts of almost every length replay the same graphs. It does so from its first time
on, also before it is captured: a prompt gives the same numbers every time.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from prefixkv.kernels.dispatch import reads_in_kernels

MOST_TOKENS = 1536
"""Longer prompts keep the device busy for longer than the host."""
TOKEN_STEP = 128
"""Sizes are multiples of this: matrix units take about so many rows at once, whether all are used or not."""
MOST_SHAPES = 4
"""Shapes of a vision tower's input that are captured; where pictures have sizes of their own, the others are not."""
EARLIER = 2
"""A part is captured when it runs once more than so often: capturing takes longer than it saves once."""


@dataclass
class _Part:
    """A part of a pass at one size.

    Attributes:
        addresses: of the weights that it reads.
        runs: how often it was computed.
        graph: what replays it; None where it is not captured.
    """

    addresses: tuple[int, ...]
    runs: int = 0
    graph: torch.cuda.CUDAGraph | None = None


class ReadingGraphs:
    """The graphs of one model on one device, and their buffers. One pass uses them at a time.

    Attributes:
        device: where they are.
        bytes: of the device, that buffers and capturing took.
        replays: of all parts so far.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is captured yet.

        Args:
            device: of the model; on a CPU every part is computed each time.
        """
        self.bytes, self.replays = 0, 0
        self.device = device
        self._parts: dict[Hashable, _Part] = {}
        self._buffers: dict[Hashable, torch.Tensor] = {}
        self._outputs: dict[Hashable, tuple[torch.Size, torch.Tensor | None]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._captures = device.type == "cuda"
        self._lock = threading.Lock()
        self._done: torch.cuda.Event | None = None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[bool]:
        """Have the buffers for oneself, if nobody else has them; says whether it is so."""
        if not self._lock.acquire(blocking=False):
            yield False
            return
        try:
            if self._done is not None:
                # Who used them before may have done so on another stream.
                torch.cuda.current_stream(self.device).wait_event(self._done)
            yield True
        finally:
            if self.device.type == "cuda":
                self._done = self._done or torch.cuda.Event()
                self._done.record(torch.cuda.current_stream(self.device))
            self._lock.release()

    @staticmethod
    def size(tokens: int) -> int | None:
        """Rows of the buffers that so many tokens take; None where they are too many."""
        return None if tokens > MOST_TOKENS else -(-tokens // TOKEN_STEP) * TOKEN_STEP

    def rows(self, name: str, size: int, width: int, like: torch.Tensor) -> torch.Tensor:
        """A buffer that all parts share who name it, (size, width), in the dtype of a tensor."""
        whole = self._buffer((name, width, like.dtype), (MOST_TOKENS, width), like)
        return whole[:size]

    def input(self, like: torch.Tensor) -> torch.Tensor:
        """A buffer of a tensor's shape and dtype, which all parts share that have such an input."""
        return self._buffer(("input", like.shape, like.dtype), tuple(like.shape), like)

    def knows(self, key: Hashable) -> bool:
        """Whether a part has shown what its output is."""
        return key in self._outputs

    def note(self, key: Hashable, like: torch.Tensor, output: Any) -> None:
        """Make a buffer for a part's output, where it is a part for a graph.

        It is none where its output is of another shape or dtype than its input, or that is one of too many, or too
        large.

        Args:
            key: the part and its size.
            like: its input, (pictures, patches, hidden).
            output: what it gave for it.
        """
        shapes = {shape for shape, buffer in self._outputs.values() if buffer is not None}
        is_common = like.shape in shapes or len(shapes) < MOST_SHAPES
        is_alike = isinstance(output, torch.Tensor) and (output.shape, output.dtype) == (like.shape, like.dtype)
        fits = is_common and is_alike and like.shape[:-1].numel() <= MOST_TOKENS
        self._outputs[key] = like.shape, self._buffer(key, tuple(like.shape), like) if fits else None

    def output(self, key: Hashable) -> torch.Tensor | None:
        """The buffer for a known part's output, which lasts until the part runs again; None where it has none."""
        return self._outputs[key][1]

    def _buffer(self, key: Hashable, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        if (buffer := self._buffers.get(key)) is None:
            buffer = self._buffers[key] = like.new_zeros(shape)
            self.bytes += buffer.nbytes
        return buffer

    def run(self, key: Hashable, addresses: tuple[int, ...], work: Callable[[], None]) -> None:
        """Have a part computed.

        Args:
            key: the part and its size.
            addresses: of the weights that it reads; where they have moved it is captured anew.
            work: reads and writes buffers, and asks the device for nothing.
        """
        part = self._parts.get(key)
        if part is None or part.addresses != addresses:
            part = self._parts[key] = _Part(addresses)
        if part.graph is not None:
            part.graph.replay()
            self.replays += 1
            return
        work()
        part.runs += 1
        if part.runs > EARLIER and self._captures:
            part.graph = self._captured(work)

    def _captured(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """Capture a part that has run; None, and a word about it, where that fails."""
        graph, stream, current = torch.cuda.CUDAGraph(), _stream(self.device), torch.cuda.current_stream(self.device)
        before = torch.cuda.memory_reserved(self.device)
        try:
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    work()
                finally:
                    graph.capture_end()
            current.wait_stream(stream)
        except RuntimeError as error:
            self._captures = False
            warnings.warn(f"reading prompts is not captured: {str(error).splitlines()[0]}", stacklevel=2)
            return None
        self.bytes += torch.cuda.memory_reserved(self.device) - before
        return graph


_graphs: weakref.WeakKeyDictionary[Any, ReadingGraphs] = weakref.WeakKeyDictionary()
_making = threading.Lock()
_own = threading.local()


@contextlib.contextmanager
def replayed_parts(model: Any, anywhere: bool = False) -> Iterator[None]:
    """Have the passes that this thread makes of a model inside the `with` replay their parts, where that helps.

    It is for passes that give nothing but logits and a cache: what the model says on its way lies in buffers that are
    written to again. PREFIXKV_CAPTURE=0 in the environment turns it off.

    Args:
        model: of transformers, inside `prefixkv.cache.attention.installed`.
        anywhere: also on a CPU, where nothing is captured.
    """
    can = reads_in_kernels(model.device)
    if not (can or anywhere) or torch.is_grad_enabled() or torch.is_autocast_enabled(model.device.type):
        yield
        return
    with _making:
        graphs = _graphs.get(model)
        if graphs is None or graphs.device != model.device:
            graphs = _graphs[model] = ReadingGraphs(model.device)
    before = current()
    with graphs.in_use() as is_free:
        _own.graphs = graphs if is_free else None
        try:
            yield
        finally:
            _own.graphs = before


def current() -> ReadingGraphs | None:
    """The graphs that this thread's pass replays; None outside `replayed_parts`."""
    return getattr(_own, "graphs", None)


def reading_memory(model: Any) -> int:
    """The bytes that a model's graphs of reading took."""
    graphs = _graphs.get(model)
    return 0 if graphs is None else graphs.bytes


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
