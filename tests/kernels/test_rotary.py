"""Rotary positions in Triton against torch, and torch against transformers."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from prefixkv.kernels.dispatch import implementation
from tests.kernels.precision import noise

pytestmark = pytest.mark.exhaustive(keep=8)


def chunk(
    dtype: torch.dtype, device: torch.device, batch: int, tokens: int, group: int, head_dim: int, batches: int
) -> list[torch.Tensor]:
    """Queries, keys (two heads, in wider rows), cosine and sine."""
    wide = noise(batch * tokens, (group + 1) * 2 * head_dim, dtype=dtype, device=device, seed=1)
    angles = noise(batches, tokens, head_dim // 2, dtype=torch.float32, device=device, seed=2).repeat(1, 1, 2)
    return [*wide.split([2 * group * head_dim, 2 * head_dim], dim=1), angles.cos().to(dtype), angles.sin().to(dtype)]


def test_plain_version_equals_transformers() -> None:
    query, key, cosine, sine = chunk(torch.bfloat16, torch.device("cpu"), 2, 9, 3, 16, batches=2)
    heads = [part.reshape(2, 9, -1, 16).transpose(1, 2) for part in (query, key)]
    expected = apply_rotary_pos_emb(*heads, cosine, sine)
    results = implementation("rotary", query, "torch")(query, key, cosine, sine)
    for result, other in zip(results, expected, strict=True):
        assert result.reshape(2, 9, -1, 16).transpose(1, 2).equal(other)


@pytest.mark.parametrize("tokens", [1, 2, 17, 65])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize(("group", "batch", "batches"), [(1, 1, 1), (3, 2, 1), (7, 2, 2), (8, 1, 1)])
def test_every_bit(
    dtype: torch.dtype, tokens: int, head_dim: int, group: int, batch: int, batches: int, triton_device: torch.device
) -> None:
    arguments = chunk(dtype, triton_device, batch, tokens, group, head_dim, batches)
    expected = implementation("rotary", arguments[0], "torch")(*arguments)
    results = implementation("rotary", arguments[0], "triton")(*arguments)
    for result, other in zip(results, expected, strict=True):
        assert result.equal(other)
