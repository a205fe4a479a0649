"""The Triton kernels of attention mass and attention peak against whole attention matrices."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from prefixkv.kernels import row_lse
from prefixkv.kernels.dispatch import implementation
from tests.kernels.precision import assert_precise, noise

pytestmark = pytest.mark.exhaustive(keep=3)

ON_GPU = torch.cuda.is_available()


def weights(queries: torch.Tensor, keys: torch.Tensor, scale: float, own: int) -> torch.Tensor:
    """The attention matrix, (batch, kv_heads, group, query_len, key_len), in the precision of the inputs.

    The first `own` queries belong to the last keys; the others see all.
    """
    batch, query_heads, query_len, head_dim = queries.shape
    kv_heads, key_len = keys.shape[1:3]
    grouped = queries.reshape(batch, kv_heads, query_heads // kv_heads, query_len, head_dim)
    scores = (grouped @ keys.unsqueeze(2).transpose(-1, -2)) * scale
    hidden = torch.ones(query_len, key_len, dtype=torch.bool, device=keys.device).triu(key_len - own + 1)
    if own:
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores.softmax(dim=-1)


def mass(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.sum(dim=-2).mean(dim=2)


def peak(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.amax(dim=(2, 3))


def mean(matrix: torch.Tensor, own: int) -> torch.Tensor:
    """The mean over the group and over the first `own` queries, over the others, and over both kinds of them."""
    parts = [part.mean(dim=(2, 3)) for part in (matrix[:, :, :, :own], matrix[:, :, :, own:]) if part.shape[3]]
    return torch.stack(parts).mean(dim=0)


def check(name: str, queries: torch.Tensor, keys: torch.Tensor, scale: float, *own: int) -> None:
    found = implementation(name, keys, "triton")(queries, keys, scale, *own)
    if name == "attention_mass":
        first, pairs = queries.shape[2], [(mass, found)]
    else:
        first = (*own, 0)[0]
        pairs = [(peak, found[0]), (partial(mean, own=first), found[1])]
    rows = queries.expand(keys.shape[0], -1, -1, -1)
    matrix, exact = weights(rows, keys, scale, first), weights(rows.double(), keys.double(), scale, first)
    for reduce, result in pairs:
        assert result.dtype == torch.float32
        assert_precise(result, reduce(matrix), reduce(exact))


SHAPES = [(1, 1), (1, 9), (13, 13), (31, 65), (64, 64), (63, 127), (65, 129), (100, 257)]
NAMES = ["attention_mass", "attention_peak"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("query_len", "key_len"), SHAPES)
def test_any_length(name: str, dtype: torch.dtype, query_len: int, key_len: int, triton_device: torch.device) -> None:
    queries = noise(2, 4, query_len, 64, dtype=dtype, device=triton_device, seed=query_len, scale=2)
    keys = noise(2, 2, key_len, 64, dtype=dtype, device=triton_device, seed=key_len + 1)
    check(name, queries, keys, 0.125)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [1, 3, 7, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_any_head_size_and_group(
    name: str, dtype: torch.dtype, group: int, head_dim: int, triton_device: torch.device
) -> None:
    queries = noise(1, 2 * group, 33, head_dim, dtype=dtype, device=triton_device, seed=group, scale=2)
    keys = noise(1, 2, 71, head_dim, dtype=dtype, device=triton_device, seed=head_dim)
    check(name, queries, keys, head_dim**-0.5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("query_len", [1, 16, 32, 200])
def test_last_queries_over_a_long_context(dtype: torch.dtype, query_len: int, triton_device: torch.device) -> None:
    key_len = 16_384 if ON_GPU else 2_000
    queries = noise(1, 2, query_len, 64, dtype=dtype, device=triton_device, seed=1, scale=2)
    keys = noise(1, 1, key_len, 64, dtype=dtype, device=triton_device, seed=2)
    check("attention_mass", queries, keys, 0.125)


@pytest.mark.gpu
def test_whole_prompt_of_16384(dtype: torch.dtype, triton_device: torch.device) -> None:
    queries = noise(1, 2, 16_384, 128, dtype=dtype, device=triton_device, seed=1, scale=2)
    keys = noise(1, 1, 16_384, 128, dtype=dtype, device=triton_device, seed=2)
    check("attention_mass", queries, keys, 128**-0.5)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_as_the_model_hands_them_over(name: str, dtype: torch.dtype, triton_device: torch.device) -> None:
    """Heads beside tokens, rows apart, and only the last queries: nothing is contiguous."""
    queries = noise(2, 90, 6, 80, dtype=dtype, device=triton_device, seed=3, scale=2)[..., :64].transpose(1, 2)
    keys = noise(2, 90, 3, 64, dtype=dtype, device=triton_device, seed=4).transpose(1, 2)
    check(name, queries[:, :, -40:], keys, 0.125)
    turned = noise(2, 3, 64, 90, dtype=dtype, device=triton_device, seed=5).transpose(2, 3)
    check(name, queries, turned, 0.125)


def test_peak_of_queries_that_all_rows_share(triton_device: torch.device) -> None:
    queries = noise(1, 4, 20, 64, dtype=torch.float32, device=triton_device, seed=6)
    keys = noise(3, 2, 50, 64, dtype=torch.float32, device=triton_device, seed=7)
    check("attention_peak", queries, keys, 0.5)


@pytest.mark.parametrize(("own", "ahead"), [(1, 0), (1, 128), (64, 128), (17, 5), (40, 0)])
def test_peak_of_the_last_queries_and_of_some_behind_them(
    dtype: torch.dtype, own: int, ahead: int, triton_device: torch.device
) -> None:
    queries = noise(2, 4, own + ahead, 64, dtype=dtype, device=triton_device, seed=own, scale=2)
    keys = noise(2, 2, 200, 64, dtype=dtype, device=triton_device, seed=ahead)
    check("attention_peak", queries, keys, 0.125, own)


def test_known_log_sum_exp_is_used_only_for_its_queries_and_for_the_last_of_them(triton_device: torch.device) -> None:
    queries = noise(1, 2, 70, 64, dtype=torch.float32, device=triton_device, seed=8)
    keys = noise(1, 1, 70, 64, dtype=torch.float32, device=triton_device, seed=9)
    scores = (queries.reshape(1, 1, 2, 70, 64) @ keys[:, :, None].transpose(-1, -2)) * 0.125
    hidden = torch.ones(70, 70, dtype=torch.bool, device=triton_device).triu(1)
    known = scores.masked_fill(hidden, float("-inf")).logsumexp(dim=-1).reshape(1, 2, 70)
    attention_mass = implementation("attention_mass", keys, "triton")
    expected = attention_mass(queries, keys, 0.125)
    row_lse.remember(queries, known)
    torch.testing.assert_close(attention_mass(queries, keys, 0.125), expected, rtol=1e-5, atol=1e-6)
    last = queries[:, :, -9:]
    expected_last = attention_mass(last.clone(), keys, 0.125)
    row_lse.remember(queries, known + 1)
    torch.testing.assert_close(attention_mass(queries, keys, 0.125), expected / torch.e, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention_mass(last, keys, 0.125), expected_last / torch.e, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention_mass(queries.clone(), keys, 0.125), expected, rtol=1e-5, atol=1e-6)
    first = queries[:, :, :9]
    torch.testing.assert_close(
        attention_mass(first, keys, 0.125), attention_mass(first.clone(), keys, 0.125), rtol=1e-5, atol=1e-6
    )
    row_lse.forget()
    torch.testing.assert_close(attention_mass(queries, keys, 0.125), expected, rtol=1e-5, atol=1e-6)
