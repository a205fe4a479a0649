"""Where the Triton kernels run: on the GPU, else in Triton's interpreter on the CPU, else not."""

from __future__ import annotations

import pytest
import torch

from prefixkv.kernels.dispatch import triton_obstacle


@pytest.fixture
def triton_device() -> torch.device:
    if missing := triton_obstacle():
        pytest.skip(f"{missing}; torch's CPU builds come without it: pip install triton")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest, triton_device: torch.device) -> torch.dtype:
    if request.param == torch.bfloat16 and triton_device.type == "cpu":
        pytest.skip("Triton's interpreter multiplies no bfloat16 matrices: this runs on a GPU only")
    return request.param
