"""The prefix threshold search against brute force over all thresholds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefixkv.errors import PrefixKVError
from prefixkv.methods.allocation import mixed, prefix, proportional, uniform
from prefixkv.policy.selection import cumulative_importance


def brute_force(curves: list[list[float]], total: int, floor: int) -> list[int]:
    """Give one entry after the other to the layer that has the least importance so far: every threshold in turn."""
    kept = [min(floor, len(curve)) for curve in curves]
    total = min(total, sum(map(len, curves)))
    while sum(kept) < total:
        open_layers = [layer for layer, curve in enumerate(curves) if kept[layer] < len(curve)]
        nearest = min(
            open_layers, key=lambda layer: (curves[layer][kept[layer] - 1] if kept[layer] else 0.0, kept[layer], layer)
        )
        kept[nearest] += 1
    return kept


def curve(kind: str, entries: int, seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    importance = {
        "flat": torch.ones(entries),
        "one-hot": torch.nn.functional.one_hot(torch.tensor(entries // 2), entries).float(),
        "zero": torch.zeros(entries),
        "random": torch.rand(entries, generator=generator),
        "steep": torch.rand(entries, generator=generator) ** 20,
        "steps": torch.randint(0, 3, (entries,), generator=generator).float(),
    }[kind]
    return cumulative_importance(importance[None, None]).tolist()


kinds = st.sampled_from(["flat", "one-hot", "zero", "random", "steep", "steps"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(kinds, min_size=1, max_size=12), st.integers(1, 80), st.floats(0, 1), st.integers(0, 5), st.integers(0, 99)
)
def test_equals_brute_force(names: list[str], entries: int, share: float, floor: int, seed: int) -> None:
    curves = [curve(name, entries, seed + layer) for layer, name in enumerate(names)]
    least = len(curves) * min(floor, entries)
    total = least + int(share * (len(curves) * entries - least))
    kept = prefix(curves, total, floor)
    assert sum(kept) == total
    assert kept == brute_force(curves, total, floor)


@pytest.mark.parametrize(("layers", "entries"), [(80, 16), (80, 4096), (1, 4096), (32, 640)])
def test_adds_up_for_large_models(layers: int, entries: int) -> None:
    curves = [curve("steep" if layer % 3 else "steps", entries, layer) for layer in range(layers)]
    total = layers * entries // 5
    kept = prefix(curves, total, 2)
    assert sum(kept) == total
    assert min(kept) >= 2
    assert len(set(kept)) > 1 or layers == 1


def test_concentrated_layers_get_less() -> None:
    flat, steep = curve("flat", 100, 0), curve("steep", 100, 0)
    kept = prefix([flat, steep], 60, 2)
    assert kept[0] > 2 * kept[1]


def test_no_curve_but_numbers() -> None:
    with pytest.raises(PrefixKVError, match="compressed layer 1 is not a number"):
        prefix([[0.5, 1.0], [0.5, float("nan")]], 1, 0)
    with pytest.raises(ValueError, match="cannot hold"):
        prefix([[0.5, 1.0]] * 3, 5, 2)


def test_uniform_adds_up() -> None:
    assert uniform(11, 4) == [3, 3, 3, 2]


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=80), st.integers(1, 5000), st.floats(0, 1), st.integers(0, 5))
def test_proportional_adds_up(shares: list[float], entries: int, part: float, floor: int) -> None:
    least = min(floor, entries) * len(shares)
    total = least + int(part * (entries * len(shares) - least))
    kept = proportional(shares, total, floor, entries)
    assert sum(kept) == total
    assert min(kept) >= min(floor, entries)
    assert max(kept) <= entries
    for low, high in zip(range(len(shares) - 1), range(1, len(shares)), strict=True):
        if shares[low] <= shares[high]:
            assert kept[low] <= kept[high] + 1


def test_proportional_keeps_a_configuration_that_fits() -> None:
    assert proportional([0.5, 0.1, 0.3], 90, 2, 100) == [50, 10, 30]


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=40))
def test_three_quarters_are_even(pairs: list[tuple[int, int]]) -> None:
    even, other = [list(part) for part in zip(*pairs, strict=True)]
    kept = mixed(even, other)
    assert sum(kept) == (3 * sum(even) + sum(other)) // 4
    assert all(0 <= count - (3 * one + two) // 4 <= 1 for count, (one, two) in zip(kept, pairs, strict=True))
