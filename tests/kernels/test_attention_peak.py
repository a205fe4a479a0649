"""Attention peak and row mass against whole attention matrices."""

from __future__ import annotations

import pytest
import torch

from prefixkv.kernels.attention_mass import attention_mass
from prefixkv.kernels.attention_peak import attention_peak
from prefixkv.kernels.row_mass import row_mass


def _weights(queries: torch.Tensor, keys: torch.Tensor, scale: float, own: int) -> torch.Tensor:
    """(batch, kv_heads, group, count, key_len), one softmax after the other."""
    batch, query_heads, count, _ = queries.shape
    kv_heads, key_len = keys.shape[1:3]
    group = query_heads // kv_heads
    weights = torch.zeros(batch, kv_heads, group, count, key_len, dtype=torch.float64)
    for b in range(batch):
        for h in range(query_heads):
            for i in range(count):
                visible = min(key_len, key_len - own + i + 1) if own else key_len
                scores = scale * keys[b, h // group, :visible].double() @ queries[b, h, i].double()
                weights[b, h // group, h % group, i, :visible] = scores.softmax(0)
    return weights


@pytest.mark.parametrize("own", [0, 2, 5])
@pytest.mark.parametrize(("query_heads", "kv_heads"), [(1, 1), (6, 2), (7, 1)])
def test_peak_is_the_maximum_of_the_matrix(own: int, query_heads: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, query_heads, 5, 16), torch.randn(2, kv_heads, 9, 16)
    matrix = _weights(queries, keys, 0.25, own)
    peak, mean = attention_peak(queries, keys, 0.25, own)
    torch.testing.assert_close(peak.double(), matrix.amax(dim=(2, 3)), atol=1e-6, rtol=1e-5)
    kinds = [part.mean(dim=(2, 3)) for part in (matrix[:, :, :, :own], matrix[:, :, :, own:]) if part.shape[3]]
    torch.testing.assert_close(mean.double(), torch.stack(kinds).mean(dim=0), atol=1e-6, rtol=1e-5)


def test_both_kinds_of_queries_have_half_of_the_mean_however_many_they_are() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 2, 150, 16), torch.randn(1, 2, 170, 16)
    _, mean = attention_peak(queries, keys, 0.25, own=100)
    _, asked = attention_peak(queries[:, :, :100], keys, 0.25, own=100)
    _, ahead = attention_peak(queries[:, :, 100:], keys, 0.25)
    torch.testing.assert_close(mean, (asked + ahead) / 2)


def test_peak_takes_the_same_queries_for_every_row() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 4, 3, 16), torch.randn(3, 2, 7, 16)
    alone = [torch.stack(attention_peak(queries, keys[row : row + 1], 0.25)) for row in range(3)]
    torch.testing.assert_close(torch.stack(attention_peak(queries, keys, 0.25)), torch.cat(alone, dim=1))


def test_row_mass_of_all_rows_is_the_attention_mass() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 6, 40, 16), torch.randn(1, 2, 50, 16)
    places = torch.arange(10, 50)
    mass = row_mass(queries[0], keys[0], 0.25, places, torch.ones(2, 40))
    torch.testing.assert_close(mass, attention_mass(queries, keys, 0.25)[0])


def test_row_mass_weighs_the_rows() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 4, 6, 16), torch.randn(1, 2, 6, 16)
    weights = torch.rand(2, 2)
    places = torch.tensor([1, 4])
    expected = (_weights(queries, keys, 0.25, 6)[0].mean(1)[:, places] * weights[..., None]).sum(1)
    mass = row_mass(queries[0, :, places], keys[0], 0.25, places, weights)
    torch.testing.assert_close(mass.double(), expected.double(), atol=1e-6, rtol=1e-5)
