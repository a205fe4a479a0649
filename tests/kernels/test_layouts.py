"""Kernels take tensors of any leading dimensions and any layout in memory, as their plain twins do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from prefixkv.kernels.dispatch import implementation
from prefixkv.kernels.gathering import Move
from tests.kernels.precision import noise

Draw = Callable[..., torch.Tensor]

WEIGHT, BIAS, GAIN = (5, 24), (5,), (24,)

CASES: dict[str, tuple[str, Callable[[Draw], tuple[Any, ...]]]] = {
    "selection, one row": ("selection", lambda draw: (draw(40), 9, 1, 2)),
    "selection, 3-D": ("selection", lambda draw: (draw(2, 3, 40), 9, 1, 2)),
    "selection, transposed": ("selection", lambda draw: (draw(40, 3).t(), 9, 1, 2)),
    "selection, expanded": ("selection", lambda draw: (draw(1, 40).expand(3, -1), 9, 1, 2)),
    "selection, float16": ("selection", lambda draw: (draw(3, 40).half(), 9, 1, 2)),
    "ranking, one row": ("ranking", lambda draw: (draw(40), 1, 2)),
    "ranking, 3-D": ("ranking", lambda draw: (draw(2, 3, 40), 1, 2)),
    "ranking, transposed": ("ranking", lambda draw: (draw(40, 3).t(), 1, 2)),
    "ranking, every second": ("ranking", lambda draw: (draw(3, 80)[:, ::2], 1, 2)),
    "ranking, float16": ("ranking", lambda draw: (draw(3, 40).half(), 1, 2)),
    "first_ranked, heads differ": (
        "ranking.first_ranked", lambda draw: ([_ranks(draw, 1, 4, 30), _ranks(draw, 1, 1, 31)], [7, 8])
    ),
    "first_ranked, batches differ": (
        "ranking.first_ranked", lambda draw: ([_ranks(draw, 1, 2, 30), _ranks(draw, 3, 2, 20)], [7, 20])
    ),
    "first_ranked, expanded": (
        "ranking.first_ranked", lambda draw: ([_ranks(draw, 1, 1, 30).expand(2, 3, -1)], [7])
    ),
    "curve, 2-D": ("curve", lambda draw: (draw(3, 40).abs(),)),
    "curve, 4-D": ("curve", lambda draw: (draw(2, 2, 3, 40).abs(),)),
    "curve, transposed": ("curve", lambda draw: (draw(40, 3).abs().t(),)),
    "rotary, transposed": (
        "rotary", lambda draw: (draw(64, 6).t(), draw(32, 6).t(), draw(1, 6, 16), draw(1, 6, 16))
    ),
    "rotary, expanded angles": (
        "rotary", lambda draw: (draw(6, 64), draw(6, 32), draw(1, 1, 16).expand(2, 3, -1), draw(2, 3, 16))
    ),
    "rms_norm, one row": ("linear.rms_norm", lambda draw: (draw(24), draw(*GAIN), 1e-5)),
    "rms_norm, 3-D": ("linear.rms_norm", lambda draw: (draw(2, 3, 24), draw(*GAIN), 1e-5)),
    "rms_norm, transposed": ("linear.rms_norm", lambda draw: (draw(24, 3).t(), draw(*GAIN), 1e-5)),
    "normed_linear, one vector": (
        "linear.normed_linear", lambda draw: (draw(24), draw(*GAIN), 1e-5, [(draw(*WEIGHT), draw(*BIAS))])
    ),
    "normed_linear, 3-D": (
        "linear.normed_linear", lambda draw: (draw(2, 3, 24), draw(*GAIN), 1e-5, [(draw(*WEIGHT), None)])
    ),
    "normed_linear, 3-D, one row": (
        "linear.normed_linear", lambda draw: (draw(1, 1, 24), draw(*GAIN), 1e-5, [(draw(*WEIGHT), None)] * 2)
    ),
    "normed_linear, many weights": (
        "linear.normed_linear", lambda draw: (draw(1, 24), draw(*GAIN), 1e-5, [(draw(*WEIGHT), None)] * 5)
    ),
    "normed_linear, a bias for some": (
        "linear.normed_linear",
        lambda draw: (draw(1, 24), draw(*GAIN), 1e-5, [(draw(*WEIGHT), None), (draw(*WEIGHT), draw(*BIAS))]),
    ),
    "normed_linear, every second": (
        "linear.normed_linear", lambda draw: (draw(1, 48)[:, ::2], draw(*GAIN), 1e-5, [(draw(*WEIGHT), None)])
    ),
    "swiglu_linear, 3-D": (
        "linear.swiglu_linear", lambda draw: (draw(2, 3, 24), draw(*GAIN), 1e-5, draw(*WEIGHT), draw(*WEIGHT))
    ),
    "swiglu_linear, one vector": (
        "linear.swiglu_linear", lambda draw: (draw(24), draw(*GAIN), 1e-5, draw(*WEIGHT), draw(*WEIGHT))
    ),
    "residual_linear, 3-D": (
        "linear.residual_linear", lambda draw: (draw(2, 3, 24), (draw(*WEIGHT), None), draw(2, 3, 5))
    ),
    "residual_linear, transposed": (
        "linear.residual_linear", lambda draw: (draw(24, 3).t(), (draw(*WEIGHT), draw(*BIAS)), draw(5, 3).t())
    ),
    "residual_linear, one row, every second": (
        "linear.residual_linear", lambda draw: (draw(1, 48)[:, ::2], (draw(*WEIGHT), None), draw(1, 10)[:, ::2])
    ),
    "gather, heads differ": (
        "gathering.gather", lambda draw: ([_move(draw, 1, 4, 20), _move(draw, 1, 2, 20), _move(draw, 2, 2, 9)], None)
    ),
    "gather, nothing stays of one": (
        "gathering.gather", lambda draw: ([_move(draw, 1, 2, 20, 0), _move(draw, 1, 2, 20, 5)], None)
    ),
    "gather, transposed": ("gathering.gather", lambda draw: ([_move(draw, 1, 2, 20, 5, is_transposed=True)], None)),
    "pack, one vector": ("packing.pack", lambda draw: (draw(64), 4)),
    "pack, transposed": ("packing.pack", lambda draw: (draw(64, 6).t(), 8)),
    "pack, nothing": ("packing.pack", lambda draw: (draw(2, 0, 64), 4)),
}  # fmt: skip


def _ranks(draw: Draw, *shape: int) -> torch.Tensor:
    return draw(*shape).argsort(dim=-1).argsort(dim=-1).int()


def _move(draw: Draw, batch: int, kv_heads: int, entries: int, count: int = 4, *, is_transposed: bool = False) -> Move:
    keys, values = (draw(batch, kv_heads, entries, 16) for _ in range(2))
    if is_transposed:
        keys = keys.transpose(2, 3).contiguous().transpose(2, 3)
    positions = torch.arange(entries, device=keys.device).expand(batch, kv_heads, -1)
    indices = draw(batch, kv_heads, entries).argsort(dim=-1)[..., :count]
    return Move(keys, values, (positions, draw(batch, kv_heads, entries)), indices, count)


def _arguments(case: str, device: torch.device) -> tuple[Any, ...]:
    seeds = iter(range(100))
    return CASES[case][1](lambda *shape: noise(*shape, dtype=torch.float32, device=device, seed=next(seeds)))


def _assert_alike(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        return
    for one, other in zip(found, expected, strict=True):
        _assert_alike(one, other)


@pytest.mark.parametrize("case", CASES)
def test_kernel_takes_what_its_twin_takes(case: str, triton_device: torch.device) -> None:
    operation, like = CASES[case][0], torch.empty(0, device=triton_device)
    # Made anew for each, since some work in place.
    found = implementation(operation, like, "triton")(*_arguments(case, triton_device))
    _assert_alike(found, implementation(operation, like, "torch")(*_arguments(case, triton_device)))
