"""Work that waits until a forward pass is queued: what needs no more of the model than its last attention."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


class _Pass(threading.local):
    work: list[Callable[[], None]] | None = None


_pass = _Pass()


def after_pass(work: Callable[[], None]) -> None:
    """Do something when the running forward pass of the thread is queued; at once where none is watched.

    A device then has the rest of the pass to do meanwhile.
    """
    if _pass.work is None:
        work()
    else:
        _pass.work.append(work)


@contextlib.contextmanager
def watched_passes(model: torch.nn.Module) -> Iterator[None]:
    """Do what waits at the end of every forward pass of a model.

    Args:
        model: its outermost module.
    """

    def begin(part: torch.nn.Module, args: tuple[Any, ...]) -> None:
        _pass.work = []

    def end(part: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        waiting, _pass.work = _pass.work or [], None
        for work in waiting:
            work()

    # Also where the pass fails: nothing may wait for another one.
    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
