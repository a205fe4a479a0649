"""The Triton packing against the plain one."""

from __future__ import annotations

import pytest
import torch

from prefixkv.kernels.dispatch import implementation
from prefixkv.kernels.packing import unpack
from tests.kernels.precision import noise

pytestmark = pytest.mark.exhaustive(keep=8)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("head_dim", [32, 64, 128, 80])
@pytest.mark.parametrize("length", [1, 33, 70])
def test_loses_no_more_than_the_plain_version(
    dtype: torch.dtype, bits: int, head_dim: int, length: int, triton_device: torch.device
) -> None:
    vectors = noise(2, length, 3, head_dim, dtype=dtype, device=triton_device, seed=length, scale=3).transpose(1, 2)
    packed = implementation("packing.pack", vectors, "triton")(vectors, bits)
    plain = implementation("packing.pack", vectors, "torch")(vectors, bits)
    assert packed.shape == plain.shape
    loss, plain_loss = (
        float((unpack(each, bits, torch.float32) - vectors.float()).square().mean()) for each in (packed, plain)
    )
    assert loss <= 1.001 * plain_loss
    assert float((packed != plain).float().mean()) < 0.01
