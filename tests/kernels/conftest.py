"""Where the Triton kernels run: on the GPU, else in Triton's interpreter on the CPU, else not."""

from __future__ import annotations

import pytest
import torch

from prefixkv.kernels.dispatch import triton_obstacle
from tests.kernels import interpreter


@pytest.fixture
def triton_device() -> torch.device:
    if missing := triton_obstacle():
        pytest.skip(f"{missing}; torch's CPU builds come without it: pip install triton")
    if torch.cuda.is_available():
        return torch.device("cuda")
    # Not before: pytest may read this file before tests/conftest.py has asked for the interpreter.
    interpreter.complete()
    return torch.device("cpu")


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest, triton_device: torch.device) -> torch.dtype:
    return request.param
