"""The next slots: the plain version against a queue, the Triton version against the plain one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefixkv.kernels.dispatch import implementation
from prefixkv.kernels.entry_table import RELEASE, SHARE, EntryTable, LayerEntries

CPU = torch.device("cpu")
LAYERS = 2


@dataclass(frozen=True)
class Compacted:
    """A layer as compaction leaves it.

    Attributes:
        seen: tokens read.
        kept: entries stored.
        window: slots that may be evicted, in their order.
        limit: what it may hold.
        spare: entries that the buffer could still take in.
        head: where the ring begins.
        beside: as how many further entries a fine run counts.
    """

    seen: int
    kept: int
    window: tuple[int, ...]
    limit: int
    spare: int

    head: int
    beside: int = 0

    def entries(self, device: torch.device) -> LayerEntries:
        capacity = self.kept + self.spare
        order = torch.full((capacity + 2,), -1, dtype=torch.int32)
        for place, slot in enumerate(self.window):
            order[(self.head + place) % len(order)] = slot
        keys = torch.zeros(1, 1, capacity, 2, device=device)
        notes = torch.zeros(1, 1, capacity, dtype=torch.int64, device=device)
        return LayerEntries(
            keys,
            keys.clone(),
            notes,
            notes.float(),
            order.to(device),
            kept_tokens=self.kept,
            seen_tokens=self.seen,
            anchor_seen=self.seen,
            anchor_kept=self.kept,
            limit=self.limit,
            head=self.head % len(order),
            count=len(self.window),
            beside=self.beside,
        )


@st.composite
def compacted(draw: st.DrawFn) -> Compacted:
    seen = draw(st.integers(1, 40))
    kept = draw(st.integers(1, seen))
    kind = draw(st.sampled_from(["hard", "share", "release"]))
    window = tuple(draw(st.permutations(range(kept)))[: draw(st.integers(1, kept))])
    limit = {"hard": kept + draw(st.integers(0, 8)), "share": SHARE, "release": RELEASE}[kind]
    # A full buffer evicts as one that is at its limit does.
    beside = draw(st.integers(0, seen)) if kind == "share" else 0
    return Compacted(seen, kept, window, limit, draw(st.integers(0, 30)), draw(st.integers(0, 50)), beside)


class Queue:
    """A layer's eviction by a deque and fractions."""

    def __init__(self, start: Compacted) -> None:
        self.start, self.window = start, deque(start.window)
        self.kept, self.seen = start.kept, start.seen

    def step(self) -> int:
        share = Fraction(self.start.kept, self.start.seen)
        if self.start.limit == SHARE:
            grown = Fraction(self.start.kept + self.start.beside, self.start.seen)
            allowed = self.start.kept + int((self.seen + 1 - self.start.seen) * grown)
        elif self.start.limit == RELEASE:
            allowed = self.kept + (self.kept - self.seen * share < 1)
        else:
            allowed = self.start.limit
        if self.kept < min(allowed, self.start.kept + self.start.spare):
            slot = self.kept
            self.kept += 1
        else:
            slot = self.window.popleft()
        self.window.append(slot)
        self.seen += 1
        return slot


def ring(table: EntryTable, entries: LayerEntries, layer: int, row: int) -> list[int]:
    """The queue that a cell describes."""
    cell = table.cell(layer, row)
    return [int(entries.order[(cell["head"] + place) % cell["order_size"]]) for place in range(cell["count"])]


def written(rows: list[Compacted | None], device: torch.device) -> tuple[EntryTable, list[list[LayerEntries] | None]]:
    """A table of rows whose layers begin in different places of their rings, and what was written to it."""
    table, found = EntryTable(LAYERS, len(rows), device), []
    for place, row in enumerate(rows):
        layers = row and [replace(row, head=row.head + layer).entries(device) for layer in range(LAYERS)]
        found.append(layers)
        if layers is not None:
            table.write(place, layers)
    return table, found


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.none() | compacted(), min_size=1, max_size=4), steps=st.integers(1, 60))
def test_plain_version_is_a_queue_in_every_cell(rows: list[Compacted | None], steps: int) -> None:
    table, found = written(rows, CPU)
    queues = [row and [Queue(row) for _ in range(LAYERS)] for row in rows]
    for _ in range(steps):
        implementation("next_slots", table.cells, "torch")(table)
        for place, (layers, entries) in enumerate(zip(queues, found, strict=True)):
            if layers is None or entries is None:
                assert not table.cells[:, place].any()
                continue
            for number, (queue, stored) in enumerate(zip(layers, entries, strict=True)):
                slot, cell = queue.step(), table.cell(number, place)
                assert (cell["slot"], cell["kept_tokens"], cell["seen_tokens"]) == (slot, queue.kept, queue.seen)
                assert cell["kept_tokens"] <= stored.keys.shape[2]
                assert ring(table, stored, number, place) == list(queue.window)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.none() | compacted(), min_size=1, max_size=40), steps=st.integers(1, 12))
def test_triton_version_equals_the_plain_one(rows: list[Compacted | None], steps: int) -> None:
    if not _triton_runs():
        pytest.skip("torch's CPU builds come without Triton: pip install triton")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    (ours, our_rings), (theirs, their_rings) = written(rows, device), written(rows, CPU)
    for _ in range(steps):
        implementation("next_slots", ours.cells, "triton")(ours)
        implementation("next_slots", theirs.cells, "torch")(theirs)
    addresses = 5
    assert ours.cells[..., addresses:].cpu().equal(theirs.cells[..., addresses:])
    for our_layers, their_layers in zip(our_rings, their_rings, strict=True):
        for our, their in zip(our_layers or [], their_layers or [], strict=True):
            assert our.order.cpu().equal(their.order)


def _triton_runs() -> bool:
    from prefixkv.kernels.dispatch import triton_obstacle

    return triton_obstacle() is None


@given(row=compacted(), steps=st.integers(1, 30), more=st.integers(1, 30))
def test_a_row_goes_on_in_larger_buffers(row: Compacted, steps: int, more: int) -> None:
    """Its ring may begin elsewhere; what was evicted until then is not evicted again."""
    limit = row.kept + 5
    start = replace(row, limit=limit, spare=5)
    table, found = written([start], CPU)
    assert found[0] is not None
    queue = Queue(start)
    for _ in range(steps):
        implementation("next_slots", table.cells, "torch")(table)
        queue.step()
    grown = []
    for number, old in enumerate(found[0]):
        cell, slots = table.cell(number, 0), ring(table, old, number, 0)
        order = torch.zeros(2 * (limit + 3), dtype=torch.int32)
        order[: len(slots)] = torch.tensor(slots)
        sizes = {"kept_tokens": cell["kept_tokens"], "seen_tokens": cell["seen_tokens"]}
        grown.append(replace(old, order=order, head=0, count=len(slots), **sizes))
    table.write(0, grown)
    for _ in range(more):
        implementation("next_slots", table.cells, "torch")(table)
        assert table.cell(1, 0)["slot"] == queue.step()
    assert ring(table, grown[1], 1, 0) == list(queue.window)


def test_a_cleared_row_is_left_alone_and_its_neighbours_go_on() -> None:
    row = Compacted(seen=10, kept=4, window=(2, 3), limit=4, spare=0, head=0)
    table, _ = written([row, row], CPU)
    table.clear(0)
    implementation("next_slots", table.cells, "torch")(table)
    assert not table.cells[:, 0].any()
    assert table.entries[0][0] is None
    assert [table.cell(layer, 1)["slot"] for layer in range(LAYERS)] == [2, 2]


def test_a_hard_limit_holds_at_every_step_and_a_share_rises_with_the_text() -> None:
    hard = Compacted(seen=100, kept=20, window=tuple(range(10, 20)), limit=22, spare=2, head=0)
    share = replace(hard, limit=SHARE, spare=200)
    table, _ = written([hard, share], CPU)
    for step in range(1, 301):
        implementation("next_slots", table.cells, "torch")(table)
        assert table.cell(0, 0)["kept_tokens"] == min(20 + step, 22)
        assert table.cell(0, 1)["kept_tokens"] == 20 + step * 20 // 100
