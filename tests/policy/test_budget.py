"""Budgets: what is read, what is refused, and exact numbers of entries."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefixkv.errors import BudgetTooSmallError, OptionError
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget, format_bytes
from prefixkv.policy.entry_size import EntrySize

LLAVA_7B = KVGeometry(layers=32, kv_heads=32, head_dim=128, dtype="bfloat16")


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("20%", "fraction", Fraction(1, 5)),
        ("0.2", "fraction", Fraction(1, 5)),
        (0.2, "fraction", Fraction(1, 5)),
        ("100%", "fraction", 1),
        ("1", "fraction", 1),
        ("512MiB", "bytes", 512 * 2**20),
        ("4GB", "bytes", 4 * 10**9),
        ("4 gb", "bytes", 4 * 10**9),
        ("1.5GiB", "bytes", 3 * 2**29),
        ("300tok", "tokens", 300),
        ("300 tokens", "tokens", 300),
    ],
)
def test_reads(text: str | float, kind: str, amount: Fraction) -> None:
    budget = Budget.parse(text)
    assert (budget.kind, budget.amount) == (kind, amount)


@pytest.mark.parametrize("text", ["0%", "120%", "-1GB", "abc", "", "2", "0", "0tok", "nan", "1e3", "20%%", "4 XB"])
def test_refuses_in_one_line(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Budget.parse(text)
    message = str(caught.value)
    assert repr(text) in message
    assert "20%" in message
    assert "\n" not in message


def test_llava_bytes() -> None:
    assert LLAVA_7B.token_bytes == 524_288
    size = 2 * 32 * 128 * 2 + 12 + 4
    assert EntrySize.of(LLAVA_7B).allocated == size
    assert Budget.parse("4GiB").entries(LLAVA_7B, 0) == (2**32 - 8) // size
    assert Budget.parse("4GiB").entries(LLAVA_7B, 5000, batch=32) == (2**27 - 5008) // size


def test_shares_are_of_a_16_bit_cache_and_bytes_are_real() -> None:
    """A model in float32 holds as much under a share; under a limit in bytes half as much of what is not packed."""
    single = KVGeometry(layers=32, kv_heads=32, head_dim=128, dtype="float32")
    for budget, bits, is_halved in [
        ("20%", None, False),
        ("300tok", None, False),
        ("4GiB", None, True),
        ("20%", 8, False),
        ("4GiB", 8, False),
    ]:
        held = [
            Budget.parse(budget).entries(geometry, 1000, size=EntrySize.of(geometry, bits))
            for geometry in (LLAVA_7B, single)
        ]
        ratio = held[0] / held[1]
        assert 1.99 < ratio < 2.01 if is_halved else ratio == 1
    packed = 32 * 2 * (64 + 2)
    assert EntrySize.of(single, 4, choosing_heads=32) == EntrySize(packed, packed, packed + 32 * 12 + 4)
    assert Budget.parse("20%").entries(single, 1000, size=EntrySize.of(single, 4)) == 6400 * 256 // 66


@given(st.integers(1, 100), st.integers(0, 5000))
def test_fraction_never_exceeds(percent: int, seen: int) -> None:
    entries = Budget.parse(f"{percent}%").entries(LLAVA_7B, seen)
    assert 0 <= percent * seen * 32 - 100 * entries < 100


def test_too_small_says_what_is_enough() -> None:
    with pytest.raises(BudgetTooSmallError, match=r"at least 1\.01 MiB"):
        Budget.parse("1KiB").check_floor(LLAVA_7B, 2)
    Budget.parse("1.01MiB").check_floor(LLAVA_7B, 2)
    Budget.parse("1%").check_floor(LLAVA_7B, 2)


@given(st.integers(1, 2**45))
def test_formatted_bytes_are_enough(count: int) -> None:
    assert Budget.parse(format_bytes(count)).amount >= count
