"""Streamed attention mass against the whole attention matrix, in value and in memory."""

from __future__ import annotations

import pytest
import torch

import prefixkv.kernels.attention_mass as module
from prefixkv.kernels.attention_mass import attention_mass
from tests.live_memory import LiveMemory

pytestmark = pytest.mark.exhaustive(keep=8)


def full_matrix(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    batch, query_heads, query_len, _ = queries.shape
    kv_heads, key_len = keys.shape[1:3]
    repeated = keys.repeat_interleave(query_heads // kv_heads, dim=1).double()
    scores = queries.double() @ repeated.transpose(2, 3) * scale
    hidden = torch.ones(query_len, key_len, dtype=torch.bool).triu(key_len - query_len + 1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
    return weights.sum(dim=2).reshape(batch, kv_heads, -1, key_len).mean(dim=2)


@pytest.mark.parametrize("group", [1, 3, 7])
@pytest.mark.parametrize(("query_len", "key_len"), [(1, 1), (1, 9), (13, 13), (64, 100), (130, 257)])
@pytest.mark.parametrize("block", [1, 5_000, 4 * 2**20])
def test_equals_full_matrix(
    group: int, query_len: int, key_len: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    torch.manual_seed(group * 1000 + query_len)
    queries = torch.randn(2, 2 * group, query_len, 16)
    keys = torch.randn(2, 2, key_len, 16)
    mass = attention_mass(queries, keys, 0.5)
    assert mass.dtype == torch.float32
    torch.testing.assert_close(mass.double(), full_matrix(queries, keys, 0.5), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mass.sum(-1), torch.full((2, 2), float(query_len)))


def peak_bytes(length: int) -> int:
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 32, length, 16), torch.randn(1, 8, length, 16)
    with LiveMemory() as memory:
        attention_mass(queries, keys, 0.25)
    return memory.peak_bytes


@pytest.mark.exhaustive
def test_memory_grows_linearly_at_most() -> None:
    """Twice the tokens: twice the memory at most, far from the 32 x 8,192 x 8,192 x 4 bytes of the matrix."""
    small, large = peak_bytes(4096), peak_bytes(8192)
    assert 0 < large <= 2 * small
    assert large < 32 * 8192 * 8192 * 4 / 50
