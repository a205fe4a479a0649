"""Compiles every launch of the Triton kernels for GPUs that need not be there, and says what each asks for.

Run as a program, since a process either interprets Triton's kernels or compiles them:
`python -m tests.kernels.ahead_of_time llava-1.5-7b bfloat16 90 all` prints one JSON object a launch; with `largest` it
compiles one launch of each kernel, the one with the largest tiles.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from tests.kernels.calls import DEMO, LLAVA, QWEN, Numbers, calls

SHAPES = {shape.name: shape for shape in (LLAVA, QWEN, DEMO)}
KIB = 1024
SHARED_BYTES = {80: 163 * KIB, 86: 99 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB, 120: 99 * KIB}
"""Most shared memory of one block by compute capability (CUDA C++ Programming Guide, table of technical specifications
for each compute capability)."""


class _Driver:
    """Stands for a GPU of some compute capability, as far as compiling asks for one."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        """A number for each capability, so that what is compiled for one is not taken for another."""
        return self.capability

    def get_current_stream(self, device: int) -> int:
        """There is none."""
        return 0

    def get_current_target(self) -> Any:
        """What to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@dataclass(frozen=True)
class Launch:
    """A launch that was asked for.

    Attributes:
        kernel: a `JITFunction`.
        arguments: in the kernel's order.
        options: by name: compile-time arguments, and how many warps and the like.
        call: what the product called.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    call: str

    @property
    def extent(self) -> int:
        """Larger where tiles and what surrounds them are larger: the product of the compile-time numbers."""
        return math.prod(number for number in self.options.values() if type(number) is int and number > 0)


@contextmanager
def recording_instead_of_launching() -> Iterator[list[Launch]]:
    """Have every launch noted; nothing is compiled, and nothing runs.

    Yields:
        The launches, without the name of their call.
    """
    from triton.runtime import JITFunction

    launches: list[Launch] = []
    run = JITFunction.run

    def note(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(Launch(self, arguments, options, ""))

    JITFunction.run = note
    try:
        yield launches
    finally:
        JITFunction.run = run


def name_of(kernel: Any) -> str:
    """Module and name, since two modules may have a kernel of one name."""
    return f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"


def all_kernels() -> set[str]:
    """Every kernel that is launched by itself: those that take the address of something."""
    from triton.runtime import JITFunction

    import prefixkv.kernels.triton as package

    modules = [
        importlib.import_module(f"{package.__name__}.{each.name}") for each in pkgutil.iter_modules(package.__path__)
    ]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, JITFunction)]
    return {name_of(kernel) for kernel in found if kernel.fn.__name__.endswith("_kernel")}


def launches_of(shape: str, dtype: str) -> list[Launch]:
    """The launches of all calls that the product makes for a model.

    Args:
        shape: name of the model.
        dtype: in which it runs.
    """
    numbers = Numbers(torch.device("cpu"), getattr(torch, dtype), are_real=False)
    named: list[Launch] = []
    for call in calls(SHAPES[shape], numbers):
        with recording_instead_of_launching() as launches:
            call.run("triton")
        named += [replace(launch, call=f"{call.operation}: {call.way}") for launch in launches]
    return named


def largest_of_each_kernel(launches: list[Launch]) -> list[Launch]:
    """One launch of each kernel, the one with most in its tiles."""
    largest: dict[str, Launch] = {}
    for launch in launches:
        name = name_of(launch.kernel)
        if name not in largest or launch.extent > largest[name].extent:
            largest[name] = launch
    return list(largest.values())


def compiled(launches: list[Launch], capability: int) -> Iterator[dict[str, Any]]:
    """Compile launches; nothing runs.

    Args:
        launches: of one model.
        capability: such as 90 for sm_90.

    Yields:
        `kernel`, `call`, and `shared_bytes` or the `problem`.
    """
    from triton.runtime import driver

    driver.set_active(_Driver(capability))
    for launch in launches:
        found: dict[str, Any] = {"kernel": name_of(launch.kernel), "call": launch.call}
        try:
            kernel = launch.kernel.run(*launch.arguments, grid=None, warmup=True, **launch.options)
        except Exception as error:
            yield found | {"problem": " ".join(str(error).split())[-300:] or repr(error)}
        else:
            yield found | {"shared_bytes": kernel.metadata.shared}


def main() -> None:
    """Compile and print; the last line lists the kernels that there are."""
    shape, dtype, capability, extent = sys.argv[1:]
    launches = launches_of(shape, dtype)
    if extent == "largest":
        launches = largest_of_each_kernel(launches)
    for each in compiled(launches, int(capability)):
        print(json.dumps(each))
    print(json.dumps(sorted(all_kernels())))


if __name__ == "__main__":
    main()
