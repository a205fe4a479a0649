"""Codes as numbers: each of the 65,536 words, exactly."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton", minversion="3.6", reason="torch's CPU builds come without Triton")
tl = pytest.importorskip("triton.language")
nibbles = pytest.importorskip("prefixkv.kernels.triton.nibbles")

WORDS = 1 << 16


@triton.jit
def _planes_kernel(words_ptr, out_ptr, size: tl.constexpr, bits: tl.constexpr, assembly: tl.constexpr):
    at = tl.program_id(0) * size + tl.arange(0, size)
    words = tl.load(words_ptr + at)
    count: tl.constexpr = 16 // bits
    for number in tl.static_range(count):
        codes = nibbles.plane(words, number, out_ptr.dtype.element_ty, bits, assembly)
        tl.store(out_ptr + at * count + number, codes)


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("assembly", [True, False])
def test_every_word_gives_its_codes(dtype: torch.dtype, bits: int, assembly: bool, triton_device: torch.device) -> None:
    if assembly and (triton_device.type == "cpu" or torch.version.hip):
        pytest.skip("PTX runs on Nvidia's devices only")
    words = torch.arange(WORDS, device=triton_device).to(torch.int16)
    count, largest = 16 // bits, (1 << bits) - 1
    out = torch.full((WORDS, count), float("nan"), dtype=dtype, device=triton_device)
    _planes_kernel[(WORDS // 1024,)](words, out, size=1024, bits=bits, assembly=assembly)
    unit = {torch.bfloat16: 8, torch.float16: 16, torch.float32: 1}[dtype]
    codes = torch.stack([(words.int() >> bits * place) & largest for place in range(count)], dim=-1)
    assert out.double().equal((codes.double() - largest / 2) * unit)
