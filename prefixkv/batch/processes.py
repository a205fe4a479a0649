"""The lines of a batch answered by several processes of this machine, one for each GPU, or all on the CPU.

The process that the command runs in holds the file of answers and loads no model. It deals lines out as the others
become free, and those of a process that has died again.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from prefixkv.batch.cluster import Loading
from prefixkv.batch.lines import Line
from prefixkv.batch.run import Batch, by_pictures
from prefixkv.batch.speed import Speed
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.profiles.config import PrefixConfig

BLOCK = 8
"""Lines that a process is dealt at a time."""


class Processes:
    """Processes that answer lines; they are started with the `with` and ended with it.

    Attributes:
        speed: of all together, when the lines are answered.
    """

    def __init__(self, count: int, loading: Loading, asked: Batch) -> None:
        """Prepare; nothing is started yet.

        Args:
            count: of processes.
            loading: the model; on its device, or one CUDA device for each process.
            asked: how lines are answered; its own lines are not looked at but for the names of their settings.

        Raises:
            OptionError: there are not so many GPUs, or the model is to be on several.
        """
        places = _places(count, loading)
        names = {name: value for line in asked.lines for name, value in (line.template_args or {}).items()}
        quiet = dataclasses.replace(asked, lines=(), notify=Batch.notify)
        context = multiprocessing.get_context("spawn")
        self._notify, self._told, self.speed = asked.notify, set[str](), Speed()
        self._workers: list[_Worker] = []
        for number, place in enumerate(places):
            ours, theirs = context.Pipe()
            given = theirs, dataclasses.replace(loading, device=place), quiet, names, count
            process = context.Process(target=_work, args=given, name=f"prefixkv-batch-{number}", daemon=True)
            self._workers.append(_Worker(process, ours, theirs))
        self._left: deque[Line] = deque()
        self._settings: str | None = None

    def __enter__(self) -> Processes:
        """Start them."""
        for worker in self._workers:
            worker.process.start()
            # Or its end would not be seen here.
            worker.theirs.close()
        return self

    def __exit__(self, *reason: object) -> None:
        """End those that still run."""
        for worker in self._workers:
            worker.ours.close()
            if worker.process.is_alive():
                worker.process.terminate()
            worker.process.join()

    def settings(self, asked: Batch) -> str:
        """Digest of all that answers depend on besides their lines, which takes the model to know."""
        while self._settings is None:
            for _ in self._heard():
                pass
        return self._settings

    def records(self, asked: Batch, lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
        """Answer lines, in any order.

        Args:
            asked: how, as the processes were told.
            lines: what.

        Yields:
            The record of each, when it is answered.

        Raises:
            PrefixKVError: no process is left, or one has failed otherwise than by a line.
        """
        self._left.extend(by_pictures(lines))
        began, missing = time.perf_counter(), len(lines)
        self._deal()
        while missing:
            for record in self._heard():
                missing -= 1
                yield record
            self._deal()
        for worker in self._alive():
            worker.send(None)
        while self._alive():
            for _ in self._heard():
                pass
        self.speed.seconds = time.perf_counter() - began

    def _alive(self) -> list[_Worker]:
        return [worker for worker in self._workers if not worker.has_ended]

    def _heard(self) -> list[dict[str, Any]]:
        """Wait until a process says something; the records among it."""
        by_pipe = {worker.ours: worker for worker in self._alive()}
        if not by_pipe:
            raise PrefixKVError(
                "all processes have ended, perhaps for lack of memory: run the command again, which goes on from "
                "here, with fewer --processes"
            )
        return [record for pipe in wait(list(by_pipe)) for record in self._take(by_pipe[pipe])]  # type: ignore[index]

    def _take(self, worker: _Worker) -> list[dict[str, Any]]:
        """What one process says; a record, if it is one."""
        try:
            kind, content = worker.ours.recv()
        except (EOFError, OSError):
            self._lose(worker)
            return []
        if kind == "record":
            del worker.lines[content["line"]]
            return [content]
        if kind == "more":
            worker.send(self._block(worker))
        elif kind == "free":
            worker.is_free = True
        elif kind == "ready":
            self._settings = self._settings or content
        elif kind == "notice":
            self._say(content)
        elif kind == "speed":
            self.speed = Speed.together([self.speed, content])
        else:
            raise content
        return []

    def _lose(self, worker: _Worker) -> None:
        """A process has ended: its lines are dealt out again."""
        worker.has_ended = True
        worker.process.join()
        if worker.lines or worker.process.exitcode:
            self._notify(
                f"a process has ended with code {worker.process.exitcode}, perhaps for lack of memory: "
                f"{len(worker.lines)} lines that it had are dealt out again"
            )
        self._left.extendleft(reversed(worker.lines.values()))
        worker.lines = {}

    def _deal(self) -> None:
        for worker in self._alive():
            if worker.is_free and self._left:
                worker.is_free = False
                worker.send(self._block(worker))

    def _block(self, worker: _Worker) -> list[Line]:
        """The next lines for a process, those of the same pictures together; none where it has its share already."""
        unanswered = len(self._left) + sum(len(each.lines) for each in self._alive())
        share = math.ceil(unanswered / max(1, len(self._alive())))
        block: list[Line] = []
        while self._left and len(worker.lines) + len(block) < share:
            follows = bool(block) and bool(block[-1].sources) and block[-1].sources == self._left[0].sources
            if len(block) >= BLOCK and not follows:
                break
            block.append(self._left.popleft())
        worker.lines |= {line.number: line for line in block}
        return block

    def _say(self, text: str) -> None:
        """Tell once what several processes may say."""
        if text not in self._told:
            self._told.add(text)
            self._notify(text)


@dataclasses.dataclass
class _Worker:
    """A process as it is seen from the one that deals.

    Attributes:
        process: itself.
        ours: this end of the pipe to it.
        theirs: the other end.
        lines: that it has and that are not answered, by number.
        is_free: whether it waits for lines.
        has_ended: whether it is no longer there.
    """

    process: Any
    ours: Connection
    theirs: Connection
    lines: dict[int, Line] = dataclasses.field(default_factory=dict)
    is_free: bool = False
    has_ended: bool = False

    def send(self, lines: list[Line] | None) -> None:
        """Deal lines to it; one that has died meanwhile is noticed when it is listened to."""
        try:
            self.ours.send(lines)
        except OSError:
            return


class _Records:
    """Takes records as a `ResultFile` does, and sends them to the process that writes."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def append(self, line: Line, content: Mapping[str, Any]) -> None:
        """Send the record of a line."""
        self._pipe.send(("record", {"line": line.number, **content}))


def _places(count: int, loading: Loading) -> list[str]:
    """The device of each process.

    Raises:
        OptionError: see `Processes`.
    """
    import torch

    from prefixkv.models.loading import find_device

    if loading.placement.device_map is not None:
        raise OptionError(
            f"--processes {count} gives each process the whole model, and --device-map {loading.placement.device_map} "
            "divides it: give one of them"
        )
    device = find_device(loading.device)
    if device.type != "cuda":
        return [device.type] * count
    cards = torch.cuda.device_count()
    is_one = ":" in loading.device
    if count > cards or is_one:
        where = f"--device {loading.device} is one" if is_one else f"torch sees {cards}"
        raise OptionError(f"--processes {count} wants so many CUDA devices, and {where}: give fewer, or --device cpu")
    return [f"cuda:{number}" for number in range(count)]


def _work(
    pipe: Connection, loading: Loading, asked: Batch, names: Mapping[str, Any], count: int
) -> None:  # pragma: no cover - in a process of its own
    """Answer what is dealt until nothing comes any more."""
    # Ctrl-C reaches all processes of a terminal; the one that was called ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _answer(pipe, loading, asked, names, count)
    except (EOFError, BrokenPipeError):
        # The one that deals is gone.
        return
    except Exception as error:
        failure = error if isinstance(error, PrefixKVError) else PrefixKVError(f"{type(error).__name__}: {error}")
        pipe.send(("failure", failure))


def _answer(pipe: Connection, loading: Loading, asked: Batch, names: Mapping[str, Any], count: int) -> None:
    import torch

    from prefixkv.inputs.template_args import say_unused

    def notify(text: str) -> None:
        pipe.send(("notice", text))

    def dealt(block: Sequence[Line]) -> Iterator[Line]:
        while block:
            yield from block
            pipe.send(("more", None))
            block = pipe.recv()

    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    loaded = loading.load(notify)
    if isinstance(asked.budget, PrefixConfig):
        asked.budget.require_model(loaded.identity)
    asked = dataclasses.replace(asked, notify=notify)
    say_unused(dict(names), loaded.processor, notify)
    pipe.send(("ready", asked.settings(loaded)))
    while True:
        pipe.send(("free", None))
        block = pipe.recv()
        if block is None:
            return
        pipe.send(("speed", asked.run(loaded, _Records(pipe), {}, lines=dealt(block))))
