"""Several processes at one work: how a launcher has started this one, and how a machine is divided among them."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psutil

from prefixkv.errors import PrefixKVError

if TYPE_CHECKING:
    import torch

MOST_PROCESSES = 8
MEMORY_SHARE = 4
"""So many times its weights must fit the memory for each process."""

_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_PATIENCE = timedelta(days=7)


class Launch:
    """How this process was started; as a `with`, it leaves the other processes at its end.

    Attributes:
        number: of this process.
        count: of processes that share the samples.
    """

    def __init__(self, device: str) -> None:
        """Join the others where a launcher has started several; their number is in the environment.

        Args:
            device: as the user names it.

        Raises:
            PrefixKVError: the launcher has started more processes here than there are CUDA devices.
        """
        self.number, self.count, self.device = 0, 1, device
        self._state: Any = None
        if is_launched():
            import torch
            from accelerate import PartialState

            on_cpu = device == "cpu" or not torch.cuda.is_available()
            if not on_cpu:
                _require_own_gpu(torch.cuda.device_count())
            # The others may have more left to do than this one.
            self._state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
            self.number, self.count = self._state.process_index, self._state.num_processes
            self.device = "cpu" if on_cpu else f"cuda:{self._state.local_process_index}"

    def __enter__(self) -> Launch:
        """Work with the others."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        """Close the group of processes, which NCCL otherwise complains of at exit.

        Where something has gone wrong the others may never come here, so that nobody waits for them: the launcher ends
        them all.
        """
        if self._state is not None and kind is None:
            self._state.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this process reports."""
        return self.number == 0

    def wait(self) -> None:
        """Until all processes are here."""
        # The launcher's own barrier names a CUDA device by the process's number, also where the CPU does the work.
        self.gather([])

    def gather(self, own: list[Any]) -> list[Any]:
        """The lists of all processes, one behind the other, in each of them.

        Args:
            own: this process's; what can be pickled.
        """
        if self._state is None:
            return own
        from accelerate.utils import gather_object

        return gather_object(own)


def is_launched() -> bool:
    """Whether a launcher has started this process beside others."""
    return any(int(os.environ.get(name) or 1) > 1 for name in _SIZES)


def _require_own_gpu(devices: int) -> None:
    """Raise a PrefixKVError where this process would share a GPU with another of its launch, which NCCL cannot do."""
    started = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if started > devices:
        raise PrefixKVError(
            f"{started} processes were started, and torch sees {devices} CUDA devices: start no more processes than "
            "there are devices, or give --device cpu"
        )


def division_of(model: torch.nn.Module) -> tuple[int, int]:
    """How this machine is divided for a model.

    A small model's steps are short: two processes with a thread each do twice the work of one with two. The figures
    depend on the number of threads in their last digits, so it depends on the machine and the model alone, not on how
    many processes are in fact started.

    Beside a GPU the host draws and cuts pictures, which is too little for threads to share: those that wait for such
    work turn in place, and two processes take each other's cores. One thread is faster there.

    Args:
        model: on its device.

    Returns:
        Processes that fit, and the threads of each.
    """
    if next(model.parameters()).device.type != "cpu":
        return 1, 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    processes = max(1, min(cores, MOST_PROCESSES, psutil.virtual_memory().total // (MEMORY_SHARE * weights)))
    return processes, max(1, cores // processes)


def cards_of(device: torch.device, named: str) -> list[str]:
    """The CUDA devices for the processes of this machine: process k takes the one of that number, and so round.

    Args:
        device: of the model in the process that was called.
        named: the device as the user has named it; one with a number is the only one.

    Returns:
        Their names; none where the model is on no CUDA device.
    """
    import torch

    if device.type != "cuda":
        return []
    return [named] if ":" in named else [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def seconds_since_start() -> float:
    """Seconds since this process was started, Python's own start among them."""
    return time.time() - psutil.Process().create_time()
