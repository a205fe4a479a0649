"""A second stream of a GPU, for small work that the model need not wait for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch


class SideStreams:
    """Work beside the model's own, until `join`; on the CPU it is done at once.

    Tensors that are made beside may be used behind `join` and let go of as any other: what is made there later waits
    for all that was queued before it. Tensors of the model's own stream that are read beside must live until `join`.
    """

    def __init__(self) -> None:
        self._busy: set[torch.device] = set()

    @contextlib.contextmanager
    def beside(self, device: torch.device) -> Iterator[None]:
        """Queue what follows behind everything that is queued so far, and beside what comes next.

        Args:
            device: of the work.
        """
        if device.type != "cuda":
            yield
            return
        side = _stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        self._busy.add(device)
        with torch.cuda.stream(side):
            yield

    def join(self) -> None:
        """Have what comes next on the devices' own streams wait for it."""
        for device in self._busy:
            torch.cuda.current_stream(device).wait_stream(_stream(device))
        self._busy.clear()


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Its few small kernels go before the blocks of the model's large ones."""
    return torch.cuda.Stream(device, priority=-1)
