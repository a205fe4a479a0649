"""Triton's interpreter takes the place of its compiler as a whole, however the tests were started."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton", minversion="3.6", reason="torch's CPU builds come without Triton")
tl = pytest.importorskip("triton.language")


def test_functions_of_the_language_are_interpreted_like_kernels(triton_device: torch.device) -> None:
    """They are not where Triton was imported before the interpreter was asked for; then no kernel can call them."""
    if triton_device.type == "cuda":
        pytest.skip("kernels are compiled on a GPU")
    from prefixkv.kernels.triton.selection import _selection_kernel

    assert not isinstance(_selection_kernel, triton.JITFunction)
    assert not isinstance(tl.sum, triton.JITFunction)


@triton.jit
def _product_kernel(left_ptr, right_ptr, out_ptr, size: tl.constexpr):
    places = tl.arange(0, size)[:, None] * size + tl.arange(0, size)[None, :]
    product = tl.dot(tl.load(left_ptr + places), tl.load(right_ptr + places), input_precision="ieee")
    tl.store(out_ptr + places, product.to(out_ptr.dtype.element_ty))


def test_matrices_are_multiplied_and_rounded_as_torch_does(dtype: torch.dtype, triton_device: torch.device) -> None:
    left, right = (torch.randint(-9, 10, (16, 16), device=triton_device).to(dtype) for _ in range(2))
    out = torch.empty(16, 16, dtype=dtype, device=triton_device)
    _product_kernel[(1,)](left, right, out, size=16)
    assert out.equal((left.double() @ right.double()).to(dtype))
