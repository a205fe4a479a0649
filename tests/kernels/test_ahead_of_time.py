"""Every Triton kernel compiles for the GPUs that are supported, as the product launches it; no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefixkv.kernels.dispatch import triton_obstacle
from tests.kernels.ahead_of_time import SHARED_BYTES

ROOT = Path(__file__).parents[2]
CASES = [
    ("llava-1.5-7b", "bfloat16", 90, "all"),
    # The least shared memory; float32 tiles are twice as large.
    ("llava-1.5-7b", "bfloat16", 86, "all"),
    ("demo", "float32", 86, "all"),
    ("qwen2-vl-7b", "float16", 86, "largest"),
    *(("llava-1.5-7b", "bfloat16", capability, "largest") for capability in (80, 89, 100, 120)),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("shape", "dtype", "capability", "launches"), CASES)
def test_every_kernel_compiles_and_fits_its_shared_memory(
    shape: str, dtype: str, capability: int, launches: str
) -> None:
    if missing := triton_obstacle():
        pytest.skip(f"{missing}; torch's CPU builds come without it: pip install triton")
    *compiled, kernels = _compile(shape, dtype, capability, launches)
    assert not [each for each in compiled if "problem" in each]
    too_large = [each for each in compiled if each["shared_bytes"] > SHARED_BYTES[capability]]
    assert not too_large
    # In float32 few rows are products of cuBLAS.
    wanted = set(kernels) - ({"rows_linear._rows_linear_kernel"} if dtype == "float32" else set())
    assert {each["kernel"] for each in compiled} == wanted


def _compile(shape: str, dtype: str, capability: int, launches: str) -> list[Any]:
    # A process of its own, because this one interprets the kernels.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.ahead_of_time", shape, dtype, str(capability), launches],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
