"""The Triton selection takes exactly the entries of the plain one."""

from __future__ import annotations

import pytest
import torch

from prefixkv.kernels.dispatch import implementation
from tests.kernels.precision import noise

pytestmark = pytest.mark.exhaustive(keep=8)


@pytest.mark.parametrize("seen_len", [1, 2, 31, 64, 65, 1000, 1025])
@pytest.mark.parametrize("protected", [(0, 0), (1, 1), (4, 9)])
@pytest.mark.parametrize("ties", [False, True])
def test_same_entries_ties_included(
    seen_len: int, protected: tuple[int, int], ties: bool, triton_device: torch.device
) -> None:
    importance = noise(3, seen_len + 5, dtype=torch.float32, device=triton_device, seed=seen_len)[:, :seen_len]
    if ties:
        importance = importance.round()
    importance[0, ::2] *= 0
    importance[1] = importance[1].abs() * 1e-20
    sinks, recent = protected
    for kept_len in {1, 2, seen_len // 5, seen_len // 2, seen_len - 1, seen_len}:
        if not max(1, sinks + recent) <= kept_len <= seen_len:
            continue
        arguments = importance, kept_len, sinks, recent
        found = implementation("selection", importance, "triton")(*arguments)
        assert found.equal(implementation("selection", importance, "torch")(*arguments))


@pytest.mark.gpu
@pytest.mark.parametrize("seen_len", [2944, 16_384, 32_768, 40_000])
def test_long_rows(seen_len: int, triton_device: torch.device) -> None:
    importance = noise(4, seen_len, dtype=torch.float32, device=triton_device, seed=1).abs()
    arguments = importance, seen_len // 5, 1, 1
    found = implementation("selection", importance, "triton")(*arguments)
    assert found.equal(implementation("selection", importance, "torch")(*arguments))
