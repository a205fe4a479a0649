"""Compiles every launch of the Triton kernels for GPUs that need not be there, and says what each asks for.

Run as a program, since a process either interprets Triton's kernels or compiles them:
`python -m tests.kernels.ahead_of_time llava-1.5-7b bfloat16 90` prints one JSON object a compiled kernel.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

    def __init__(self) -> None:
        self.capability = 0

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


@contextmanager
def compiling_instead_of_launching(capabilities: list[int]) -> Iterator[list[dict[str, Any]]]:
    """Have every launch compile its kernel for some GPUs; nothing runs.

    Yields:
        What was compiled: `kernel`, `capability`, `shared_bytes`.
    """
    from triton.runtime import JITFunction, driver

    standing = _Driver()
    driver.set_active(standing)
    found: list[dict[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        for capability in capabilities:
            standing.capability = capability
            try:
                compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
            except Exception as error:
                problem = " ".join(str(error).split())[-300:]
                found.append({"kernel": name_of(self), "capability": capability, "problem": problem or repr(error)})
                continue
            shared = compiled.metadata.shared
            found.append({"kernel": name_of(self), "capability": capability, "shared_bytes": shared})

    JITFunction.run = compile_only
    try:
        yield found
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


def compile_all(shape: str, dtype: str, capabilities: list[int]) -> list[dict[str, Any]]:
    """Compile the launches of all calls that the product makes for a model.

    Args:
        shape: name of the model.
        dtype: in which it runs.
        capabilities: such as 90 for sm_90.
    """
    numbers = Numbers(torch.device("cpu"), getattr(torch, dtype), are_real=False)
    with compiling_instead_of_launching(capabilities) as found:
        for call in calls(SHAPES[shape], numbers):
            done = len(found)
            call.run("triton")
            for each in found[done:]:
                each["call"] = f"{call.operation}: {call.way}"
    return found


def main() -> None:
    """Compile and print; the last line lists the kernels that there are."""
    shape, dtype, *capabilities = sys.argv[1:]
    for each in compile_all(shape, dtype, [int(capability) for capability in capabilities]):
        print(json.dumps(each))
    print(json.dumps(sorted(all_kernels())))


if __name__ == "__main__":
    main()
