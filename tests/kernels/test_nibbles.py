"""Codes as numbers: each of the 65,536 words, exactly."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton", minversion="3.6", reason="torch's CPU builds come without Triton")
tl = pytest.importorskip("triton.language")
nibbles = pytest.importorskip("prefixkv.kernels.triton.nibbles")

WORDS = 1 << 16


@triton.jit
def _planes_kernel(words_ptr, out_ptr, size: tl.constexpr, assembly: tl.constexpr):
    at = tl.program_id(0) * size + tl.arange(0, size)
    words = tl.load(words_ptr + at)
    first, second, third, fourth = nibbles.planes(words, out_ptr.dtype.element_ty, assembly)
    tl.store(out_ptr + at * 4, first)
    tl.store(out_ptr + at * 4 + 1, second)
    tl.store(out_ptr + at * 4 + 2, third)
    tl.store(out_ptr + at * 4 + 3, fourth)


@pytest.mark.parametrize("assembly", [True, False])
def test_every_word_gives_its_four_codes(dtype: torch.dtype, assembly: bool, triton_device: torch.device) -> None:
    if assembly and (triton_device.type == "cpu" or torch.version.hip):
        pytest.skip("PTX runs on Nvidia's devices only")
    words = torch.arange(WORDS, device=triton_device).to(torch.int16)
    out = torch.full((WORDS, 4), float("nan"), dtype=dtype, device=triton_device)
    _planes_kernel[(WORDS // 1024,)](words, out, size=1024, assembly=assembly)
    unit = {torch.bfloat16: 8, torch.float16: 16, torch.float32: 1}[dtype]
    codes = torch.stack([(words.int() >> 4 * place) & 15 for place in range(4)], dim=-1)
    assert out.double().equal((codes.double() - 7.5) * unit)
