"""The lines of a batch answered by several processes of this machine, one for each GPU, or all on the CPU.

The process that the command runs in holds the file of answers and loads no model. It deals lines out as the others
become free, and those of a process that has died again.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from prefixkv.batch.lines import Line
from prefixkv.batch.run import Batch, by_pictures
from prefixkv.batch.speed import ProcessSeconds, Speed
from prefixkv.children import Child, Children
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.profiles.loading import Loading

BLOCK = 8
"""Lines that a process is dealt at a time."""


@dataclasses.dataclass
class Answering:
    """A process that answers lines.

    Attributes:
        child: itself.
        lines: that it has and that are not answered, by number.
        seconds: that it took to start, and to work.
        is_free: whether it waits for lines.
        has_ended: whether it is no longer there.
    """

    child: Child
    lines: dict[int, Line] = dataclasses.field(default_factory=dict)
    seconds: ProcessSeconds = dataclasses.field(default_factory=ProcessSeconds)
    is_free: bool = False
    has_ended: bool = False


class Processes:
    """Processes that answer lines, told what to do with the `with`.

    Attributes:
        speed: of all together, when the lines are answered.
    """

    def __init__(self, children: Children, loading: Loading, asked: Batch) -> None:
        """Find out what each is to do; nothing is told yet.

        Args:
            children: the processes.
            loading: the model; on its device, or one CUDA device for each process.
            asked: how lines are answered; its own lines are not looked at but for the names of their settings.

        Raises:
            OptionError: there are not so many GPUs, or the model is to be on several.
        """
        self._answering = [Answering(child) for child in children.every]
        places = _places(len(self._answering), loading)
        names = {name: value for line in asked.lines for name, value in (line.template_args or {}).items()}
        quiet = dataclasses.replace(asked, lines=(), notify=Batch.notify)
        self._tasks = [
            (dataclasses.replace(loading, device=place), quiet, names, len(self._answering)) for place in places
        ]
        self._notify, self._told, self.speed = asked.notify, set[str](), Speed()
        self._left: deque[Line] = deque()
        self._settings: str | None = None

    def __enter__(self) -> Processes:
        """Tell each its task: it loads the model."""
        for one, task in zip(self._answering, self._tasks, strict=True):
            one.child.send(task)
        return self

    def __exit__(self, *reason: object) -> None:
        """Who has started them ends them."""

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
        for one in self._alive():
            one.child.send(None)
        while self._alive():
            for _ in self._heard():
                pass
        self.speed.seconds = time.perf_counter() - began
        self.speed.processes = [one.seconds for one in self._answering]

    def _alive(self) -> list[Answering]:
        return [one for one in self._answering if not one.has_ended]

    def _heard(self) -> list[dict[str, Any]]:
        """Wait until a process says something; the records among it."""
        by_pipe = {one.child.ours: one for one in self._alive()}
        if not by_pipe:
            raise PrefixKVError(
                "all processes have ended, perhaps for lack of memory: run the command again, which goes on from "
                "here, with fewer --processes"
            )
        return [record for pipe in wait(list(by_pipe)) for record in self._take(by_pipe[pipe])]  # type: ignore[index]

    def _take(self, one: Answering) -> list[dict[str, Any]]:
        """What one process says; a record, if it is one."""
        try:
            kind, content = one.child.ours.recv()
        except (EOFError, OSError):
            self._lose(one)
            return []
        if kind == "record":
            del one.lines[content["line"]]
            return [content]
        if kind == "more":
            one.child.send(self._block(one))
        elif kind == "free":
            one.is_free = True
        elif kind == "ready":
            settings, one.seconds.startup_seconds = content
            self._settings = self._settings or settings
        elif kind == "notice":
            self._say(content)
        elif kind == "speed":
            one.seconds.seconds += content.seconds
            one.seconds.tokens += content.tokens
            self.speed = Speed.together([self.speed, content])
        else:
            raise content
        return []

    def _lose(self, one: Answering) -> None:
        """A process has ended: its lines are dealt out again."""
        one.has_ended = True
        one.child.process.join()
        if one.lines or one.child.process.exitcode:
            self._notify(
                f"a process has ended with code {one.child.process.exitcode}, perhaps for lack of memory: "
                f"{len(one.lines)} lines that it had are dealt out again"
            )
        self._left.extendleft(reversed(one.lines.values()))
        one.lines = {}

    def _deal(self) -> None:
        for one in self._alive():
            if one.is_free and self._left:
                one.is_free = False
                one.child.send(self._block(one))

    def _block(self, one: Answering) -> list[Line]:
        """The next lines for a process, those of the same pictures together; none where it has its share already."""
        unanswered = len(self._left) + sum(len(each.lines) for each in self._alive())
        share = math.ceil(unanswered / max(1, len(self._alive())))
        block: list[Line] = []
        while self._left and len(one.lines) + len(block) < share:
            follows = bool(block) and bool(block[-1].sources) and block[-1].sources == self._left[0].sources
            if len(block) >= BLOCK and not follows:
                break
            block.append(self._left.popleft())
        one.lines |= {line.number: line for line in block}
        return block

    def _say(self, text: str) -> None:
        """Tell once what several processes may say."""
        if text not in self._told:
            self._told.add(text)
            self._notify(text)


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
