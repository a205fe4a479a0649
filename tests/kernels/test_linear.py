"""The linear layers of a decoder in Triton against torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from prefixkv.kernels.dispatch import implementation
from tests.kernels.precision import assert_precise, noise

pytestmark = pytest.mark.exhaustive(keep=8)

Layer = tuple[torch.Tensor, torch.Tensor | None]


def double(value: object) -> object:
    """The same arguments in float64."""
    if isinstance(value, torch.Tensor):
        return value.double()
    return type(value)(double(each) for each in value) if isinstance(value, list | tuple) else value


def check(operation: str, *arguments: object) -> None:
    like = next(value for value in arguments if isinstance(value, torch.Tensor))
    results = implementation(operation, like, "triton")(*arguments)
    plain = implementation(operation, like, "torch")
    ordinary, exact = plain(*arguments), plain(*double(arguments))
    if not isinstance(results, torch.Tensor):
        results, ordinary, exact = (torch.cat(each, dim=1) for each in (results, ordinary, exact))
    assert results.dtype == ordinary.dtype
    assert_precise(results, ordinary, exact)


@pytest.fixture
def draw(dtype: torch.dtype, triton_device: torch.device) -> Callable[..., torch.Tensor]:
    seeds = iter(range(100))
    return lambda *shape, scale=1.0: noise(*shape, dtype=dtype, device=triton_device, seed=next(seeds), scale=scale)


SIZES = [(1, 64), (17, 96), (33, 257), (130, 300), (64, 1100)]
rows = pytest.mark.parametrize("rows", [1, 2, 5, 16, 19])
sizes = pytest.mark.parametrize(("outputs", "inputs"), SIZES)


@rows
@pytest.mark.parametrize("inputs", [1, 33, 256, 1000])
def test_rms_norm(rows: int, inputs: int, draw: Callable[..., torch.Tensor]) -> None:
    check("linear.rms_norm", draw(rows, inputs, scale=3), draw(inputs), 1e-5)


@rows
@sizes
@pytest.mark.parametrize("bias", [False, True])
def test_normed_linear_with_weights_of_several_sizes(
    rows: int, outputs: int, inputs: int, bias: bool, draw: Callable[..., torch.Tensor]
) -> None:
    weights: list[Layer] = [(draw(count, inputs), draw(count) if bias else None) for count in (outputs, 2 * outputs, 5)]
    check("linear.normed_linear", draw(rows, inputs, scale=3), draw(inputs), 1e-5, weights)
    check("linear.normed_linear", draw(rows, inputs), draw(inputs), 1e-5, weights[:1])


@rows
@sizes
def test_swiglu_linear(rows: int, outputs: int, inputs: int, draw: Callable[..., torch.Tensor]) -> None:
    gate, up = (draw(outputs, inputs, scale=inputs**-0.5) for _ in range(2))
    check("linear.swiglu_linear", draw(rows, inputs, scale=3), draw(inputs), 1e-5, gate, up)


@rows
@sizes
@pytest.mark.parametrize("bias", [False, True])
def test_residual_linear(rows: int, outputs: int, inputs: int, bias: bool, draw: Callable[..., torch.Tensor]) -> None:
    weight = draw(outputs, inputs), draw(outputs) if bias else None
    check("linear.residual_linear", draw(rows, inputs), weight, draw(rows, outputs, scale=5))


@pytest.mark.gpu
def test_sizes_of_a_7b_model(draw: Callable[..., torch.Tensor]) -> None:
    gain, hidden = draw(4096), draw(1, 4096)
    check("linear.normed_linear", hidden, gain, 1e-5, [(draw(4096, 4096, scale=0.02), None) for _ in range(3)])
    gate, up, down = (draw(*shape, scale=0.02) for shape in ((11008, 4096), (11008, 4096), (4096, 11008)))
    check("linear.swiglu_linear", hidden, gain, 1e-5, gate, up)
    check("linear.residual_linear", draw(1, 11008), (down, None), hidden)
