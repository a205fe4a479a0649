"""A kernel and its plain twin take the same shapes, called as the product calls them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from prefixkv.kernels import dispatch
from tests.kernels.calls import TINY, Call, Numbers, calls

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
"""Of the largest number of a result: matrices are multiplied in another order, and rounded in between."""
FEW_CODES = 0.02
"""Share of packed codes that may come out on the other side of a step."""
ON_A_CPU = Numbers(torch.device("cpu"), torch.float32, are_real=False)
CALLS = [(call.operation, call.way) for call in calls(TINY, ON_A_CPU)]


def test_every_operation_of_the_dispatch_is_called() -> None:
    functions = {
        name
        for name, function in inspect.getmembers(dispatch, inspect.isfunction)
        if function.__module__ == dispatch.__name__ and "_run(" in inspect.getsource(function) and name != "_run"
    }
    assert functions == {operation for operation, _ in CALLS}


@pytest.mark.exhaustive(keep=18)
@pytest.mark.parametrize("kind", list(DTYPES))
@pytest.mark.parametrize(("operation", "way"), CALLS)
def test_kernel_and_twin_take_the_same_shapes(operation: str, way: str, kind: str, triton_device: torch.device) -> None:
    numbers = Numbers(triton_device, DTYPES[kind])
    (call,) = (call for call in calls(TINY, numbers) if (call.operation, call.way) == (operation, way))
    _assert_alike(call.run("triton"), call.run("torch"), numbers.dtype)


def _assert_alike(ours: Any, twin: Any, dtype: torch.dtype) -> None:
    if not isinstance(twin, torch.Tensor):
        assert len(ours) == len(twin)
        for one, other in zip(ours, twin, strict=True):
            _assert_alike(one, other, dtype)
        return
    assert (ours.shape, ours.dtype) == (twin.shape, twin.dtype)
    if twin.dtype == torch.uint8:
        assert float((ours != twin).float().mean()) <= FEW_CODES
    elif not twin.is_floating_point():
        assert torch.equal(ours, twin)
    else:
        allowed = TOLERANCES[dtype] * max(1.0, float(twin.abs().max()))
        assert float((ours.double() - twin.double()).abs().max()) <= allowed


def test_a_call_names_its_operation_once() -> None:
    assert len(set(CALLS)) == len(CALLS)
    assert all(isinstance(call, Call) for call in calls(TINY, ON_A_CPU))
