"""What one of several processes does: it loads the model and answers the lines that it is dealt."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from prefixkv.batch.lines import Line
from prefixkv.batch.run import Batch
from prefixkv.inputs.template_args import say_unused
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.loading import Loading
from prefixkv.workers import seconds_since_start


class _Records:
    """Takes records as a `ResultFile` does, and sends them to the process that writes."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def append(self, line: Line, content: Mapping[str, Any]) -> None:
        """Send the record of a line."""
        self._pipe.send(("record", {"line": line.number, **content}))


def answer_dealt(
    pipe: Connection, loading: Loading, asked: Batch, names: Mapping[str, Any], count: int
) -> None:  # pragma: no cover - in a process of its own
    """Answer what is dealt until nothing comes any more.

    Args:
        pipe: to the process that deals, see `Processes`.
        loading: the model, on this process's device.
        asked: how lines are answered.
        names: settings of the chat template that a line may name.
        count: of the processes that share this machine's threads.
    """

    def notify(text: str) -> None:
        pipe.send(("notice", text))

    def dealt(block: Sequence[Line]) -> Iterator[Line]:
        while block:
            yield from block
            pipe.send(("more", None))
            block = pipe.recv()

    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    loaded = loading.load(notify)
    if loaded.device.type == "cuda":
        # What names no device of its own belongs here, too, and not onto the first card.
        torch.cuda.set_device(loaded.device)
    if isinstance(asked.budget, PrefixConfig):
        asked.budget.require_model(loaded.identity)
    asked = dataclasses.replace(asked, notify=notify)
    say_unused(dict(names), loaded.processor, notify)
    pipe.send(("ready", (asked.settings(loaded), seconds_since_start())))
    while True:
        pipe.send(("free", None))
        block = pipe.recv()
        if block is None:
            return
        pipe.send(("speed", asked.run(loaded, _Records(pipe), {}, lines=dealt(block))))
