"""Rows are put together as long as they fit, and never otherwise."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from prefixkv.batch.plan import Room
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget

GEOMETRY = KVGeometry(layers=4, kv_heads=2, head_dim=16, dtype="float32")


@given(
    lengths=st.lists(st.integers(1, 3000), max_size=40),
    budget=st.sampled_from(["20%", "100%", "50tok", "40KiB"]),
    memory=st.integers(10_000, 30_000_000),
    rows=st.integers(1, 9),
)
def test_batches_fit_and_hold_every_row_that_can_be_held(
    lengths: list[int], budget: str, memory: int, rows: int
) -> None:
    room = Room(GEOMETRY, Budget.parse(budget), False, memory, rows, new_tokens=30)
    batches = room.batches(lengths)
    held = sorted(index for batch in batches for index in batch)
    assert held == [index for index, length in enumerate(lengths) if room.batch_bytes(length, 1) <= memory]
    for batch in batches:
        assert 0 < len(batch) <= rows
        assert room.batch_bytes(max(lengths[index] for index in batch), len(batch)) <= memory
    for earlier, later in pairwise(batches):
        assert max(lengths[index] for index in earlier) <= min(lengths[index] for index in later)
        joined = room.batch_bytes(lengths[later[0]], len(earlier) + 1)
        assert len(earlier) == rows or joined > memory


def test_more_memory_makes_fewer_batches() -> None:
    lengths = [600] * 24
    batches = [
        len(Room(GEOMETRY, Budget.parse("20%"), False, memory, 16, 30).batches(lengths))
        for memory in (500_000, 2_000_000, 8_000_000)
    ]
    assert batches == sorted(batches, reverse=True)
    assert batches[0] > batches[-1] == 2


def test_smaller_budget_puts_more_rows_together() -> None:
    lengths = [600] * 24
    rooms = [Room(GEOMETRY, Budget.parse(text), False, 4_000_000, 24, 30) for text in ("100%", "20%")]
    assert len(rooms[0].batches(lengths)) > len(rooms[1].batches(lengths))
