"""Triton's interpreter takes the place of its compiler as a whole, however the tests were started."""

from __future__ import annotations

import pytest
import torch


def test_functions_of_the_language_are_interpreted_like_kernels(triton_device: torch.device) -> None:
    """They are not where Triton was imported before the interpreter was asked for; then no kernel can call them."""
    if triton_device.type == "cuda":
        pytest.skip("kernels are compiled on a GPU")
    import triton
    import triton.language as tl

    from prefixkv.kernels.triton.selection import _selection_kernel

    assert not isinstance(_selection_kernel, triton.JITFunction)
    assert not isinstance(tl.sum, triton.JITFunction)
