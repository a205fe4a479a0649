"""Packed vectors: size, order, and how much they lose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefixkv.kernels.packing import hadamard, pack, packed_size, turn, unpack, unpack_turned


def _vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _relative_error(vectors: torch.Tensor, bits: int) -> float:
    back = unpack(pack(vectors, bits), bits, torch.float32)
    return float((back - vectors).norm() / vectors.norm())


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize(("bits", "most"), [(8, 0.012), (4, 0.12), (2, 0.36)])
def test_error_is_that_of_the_bits(head_dim: int, bits: int, most: float) -> None:
    vectors = _vectors(2, 3, 50, head_dim)
    packed = pack(vectors, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, 3, 50, packed_size(head_dim, bits)) == (2, 3, 50, head_dim * bits // 8 + 2)
    assert most / 4 < _relative_error(vectors, bits) < most


def test_an_outlier_costs_no_more_than_its_share() -> None:
    plain = _vectors(1, 1, 200, 128)
    outlier = plain.clone()
    outlier[..., 5] *= 30
    assert _relative_error(outlier, 4) < 1.5 * _relative_error(plain, 4)


def test_four_bits_are_the_best_step_for_a_normal_distribution() -> None:
    # Max (1960): the mean squared error of 16 equal steps is 0.01154 of the variance.
    error = _relative_error(_vectors(1, 1, 4000, 128), 4) ** 2
    assert error == pytest.approx(0.0115, rel=0.05)


def test_two_bits_are_the_best_step_for_a_normal_distribution() -> None:
    # Max (1960): the mean squared error of 4 equal steps is 0.1188 of the variance.
    error = _relative_error(_vectors(1, 1, 4000, 128), 2) ** 2
    assert error == pytest.approx(0.1188, rel=0.05)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_zeros_and_extremes_come_back(bits: int) -> None:
    assert unpack(pack(torch.zeros(2, 64), bits), bits, torch.float32).abs().max() < 1e-5
    vectors = _vectors(1, 64)
    for size in (1e-3, 1e3):
        assert _relative_error(size * vectors, bits) == pytest.approx(_relative_error(vectors, bits), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_of_the_model_comes_back(dtype: torch.dtype) -> None:
    assert unpack(pack(_vectors(4, 64).to(dtype), 8), 8, dtype).dtype == dtype


@given(entries=st.integers(1, 20), bits=st.sampled_from([8, 4, 2]), seed=st.integers(0, 100))
def test_every_row_stands_alone(entries: int, bits: int, seed: int) -> None:
    vectors = _vectors(entries, 64, seed=seed)
    order = torch.randperm(entries, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(pack(vectors, bits)[order], pack(vectors[order], bits))


def test_the_rotation_is_its_own_inverse() -> None:
    matrix = hadamard(64, torch.device("cpu"))
    assert torch.allclose(matrix @ matrix, torch.eye(64), atol=1e-6)


def test_the_rotation_can_be_used_outside_the_inference_mode_that_made_it() -> None:
    hadamard.cache_clear()
    with torch.inference_mode():
        hadamard(16, torch.device("cpu"))
    assert not hadamard(16, torch.device("cpu")).is_inference()


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_turned_vectors_attend_as_the_vectors_themselves(bits: int, head_dim: int) -> None:
    """Scores of a turned query, and a weighted sum that is turned back, as of what was unpacked."""
    query, keys, values = _vectors(1, 4, 1, head_dim), *_vectors(2, 1, 4, 90, head_dim, seed=1)
    attention = torch.nn.functional.scaled_dot_product_attention
    packed = pack(keys, bits), pack(values, bits)
    expected = attention(query, *(unpack(part, bits, torch.float32) for part in packed))
    turned = [unpack_turned(part, bits, torch.float32) for part in packed]
    found = attention(turn(query), *turned)
    torch.testing.assert_close(turn(found), expected, rtol=1e-5, atol=1e-6)
    assert (found - expected).abs().max() > 1e-2
    torch.testing.assert_close(turn(turned[0]), unpack(packed[0], bits, torch.float32), rtol=0, atol=0)
