"""Gathering in Triton against the plain one: the same bytes where entries are copied, no more loss where packed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prefixkv.kernels.dispatch import implementation
from prefixkv.kernels.gathering import Move
from prefixkv.kernels.packed_row import PAIRS, key_bits, value_bits
from prefixkv.kernels.packing import unpack
from tests.kernels.precision import noise

pytestmark = pytest.mark.exhaustive(keep=4)

ENTRIES = 70


def _move(
    heads: int,
    numbers: int,
    dtype: torch.dtype,
    device: torch.device,
    count: int,
    seed: int = 1,
    is_ranked: bool = True,
) -> Move:
    """Keys, and values in another order of memory, as a model has them, and a choice."""
    if dtype == torch.uint8:
        generator = torch.Generator().manual_seed(seed)
        keys = torch.randint(0, 256, (2, 4, ENTRIES, numbers), generator=generator, dtype=dtype).to(device)
        values = keys.flip(2).contiguous()
    else:
        keys = noise(2, 4, ENTRIES, numbers, dtype=dtype, device=device, seed=seed)
        values = noise(2, ENTRIES, 4, numbers, dtype=dtype, device=device, seed=seed + 1).transpose(1, 2)
    positions = torch.arange(7, 7 + ENTRIES, device=device).expand(2, heads, -1)
    importance = noise(2, heads, ENTRIES, dtype=torch.float32, device=device, seed=seed + 2)
    ranks = importance.argsort(dim=-1).int()
    order = noise(2, heads, ENTRIES, dtype=torch.float32, device=device, seed=seed + 3).argsort(dim=-1)
    notes = (positions, importance, ranks) if is_ranked else (positions, importance)
    return Move(keys, values, notes, order[..., :count], count)


def _check(moves: list[Move]) -> None:
    found = implementation("gathering.gather", moves[0].keys, "triton")(moves, None)
    expected = implementation("gathering.gather", moves[0].keys, "torch")(moves, None)
    for (keys, values, notes), (plain_keys, plain_values, plain_notes) in zip(found, expected, strict=True):
        pairs = zip((keys, values, *notes), (plain_keys, plain_values, *plain_notes), strict=True)
        assert all(one.equal(other) and one.dtype == other.dtype and one.is_contiguous() for one, other in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
@pytest.mark.parametrize("numbers", [16, 66, 80, 130, 33])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("is_ranked", [True, False])
def test_copies_the_same_bytes(
    dtype: torch.dtype, numbers: int, heads: int, is_ranked: bool, triton_device: torch.device
) -> None:
    for count in (1, 33, ENTRIES):
        move = _move(heads, numbers, dtype, triton_device, count, is_ranked=is_ranked)
        _check([move])
        _check([replace(move, indices=None)])


def test_layers_that_keep_different_numbers_move_together(triton_device: torch.device) -> None:
    counts = (1, 70, 33, 32)
    moves = [_move(4, 64, torch.float32, triton_device, count, seed) for seed, count in enumerate(counts)]
    moves[1] = replace(moves[1], keys=moves[1].keys.transpose(1, 2).contiguous().transpose(1, 2))
    _check(moves)
    _check([replace(move, indices=None) for move in moves])


def test_buffers_that_are_larger_than_what_they_hold(triton_device: torch.device) -> None:
    move = _move(4, 16, torch.float32, triton_device, 40)
    keys, values = move.keys[:, :, 3:43], move.values[:, :, 3:43]
    indices = torch.arange(39, -1, -1, device=triton_device).expand(2, 4, -1)
    smaller = Move(keys, values, tuple(note[..., 3:43] for note in move.notes), indices, 40)
    ((found, _, notes),) = implementation("gathering.gather", keys, "triton")([smaller], None)
    assert found.equal(keys.flip(2))
    assert notes[1].equal(smaller.notes[1].flip(2))


@pytest.mark.exhaustive(keep=3)
@pytest.mark.parametrize("bits", PAIRS)
@pytest.mark.parametrize("head_dim", [32, 64, 128, 80])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("is_chosen", [True, False])
def test_packs_what_was_chosen(
    dtype: torch.dtype, bits: int, head_dim: int, heads: int, is_chosen: bool, triton_device: torch.device
) -> None:
    moves = [_move(heads, head_dim, dtype, triton_device, count, count) for count in (41, 70, 1)]
    if not is_chosen:
        moves = [replace(move, indices=None) for move in moves]
    found = implementation("gathering.gather", moves[0].keys, "triton")(moves, bits)
    expected = implementation("gathering.gather", moves[0].keys, "torch")(moves, bits)
    chosen = implementation("gathering.gather", moves[0].keys, "torch")(moves, None)
    for ours, plain, exact in zip(found, expected, chosen, strict=True):
        assert all(one.equal(other) for one, other in zip(ours[2], plain[2], strict=True))
        each_bits = key_bits(bits), value_bits(bits)
        for packed, plain_packed, vectors, own in zip(ours[:2], plain[:2], exact[:2], each_bits, strict=True):
            assert packed.shape == plain_packed.shape
            loss, plain_loss = (
                float((unpack(each, own, torch.float32) - vectors.float()).square().mean())
                for each in (packed, plain_packed)
            )
            assert loss <= 1.001 * plain_loss
            assert float((packed != plain_packed).float().mean()) < 0.01
