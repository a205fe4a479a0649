"""What a layer holds after many steps, in closed form against one step after another."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from prefixkv.cache.decode_limit import DecodeLimit
from prefixkv.cache.layer import CompressedLayer

counts = st.integers(1, 60)


@st.composite
def limits(draw: st.DrawFn) -> tuple[DecodeLimit, int, int]:
    """A limit, and what a layer with it has kept and seen."""
    kept = draw(counts)
    seen = kept + draw(st.integers(0, 60))
    kind = draw(st.sampled_from(["fixed", "share", "release", "configured"]))
    limit = {
        "fixed": DecodeLimit(kept + draw(st.integers(0, 20))),
        "share": DecodeLimit.of_anchor(kept, seen, draw(counts)),
        "release": DecodeLimit(None, kept, seen, is_release=True),
        "configured": DecodeLimit.of_share(draw(st.floats(0.01, 1))),
    }[kind]
    return limit, kept, seen


@given(limits(), st.integers(0, 90), st.integers(0, 80))
def test_closed_form_is_one_step_after_another(drawn: tuple[DecodeLimit, int, int], steps: int, room: int) -> None:
    limit, kept, seen = drawn
    now, within = kept, steps
    for step in range(steps):
        assert limit.allowed(seen + step) - (limit.allowed(seen + step - 1) if step else limit.allowed(seen)) in (0, 1)
        now += now < limit.allowed(seen + step)
        if now > kept + room:
            within = min(within, step)
    assert limit.kept_after(kept, seen, steps) == now
    assert limit.steps_within(kept + room, kept, seen, steps) == within


@given(limits(), st.data())
def test_counted_steps_leave_the_queue_of_steps_taken(drawn: tuple[DecodeLimit, int, int], data: st.DataObject) -> None:
    """The ring that a layer turns by itself, and the numbers that are made up for afterwards."""
    limit, kept, seen = drawn
    layer = CompressedLayer(4, torch.float32)
    layer.arrive(torch.randn(1, 1, kept, 4), torch.randn(1, 1, kept, 4))
    layer.keep(None, torch.zeros(1, 1, kept), kept)
    start = data.draw(st.integers(0, kept - 1))
    layer.open_queue(range(start, kept))
    layer.seen_tokens = seen
    expected = list(range(start, kept))
    for step in range(data.draw(st.integers(0, 70))):
        grows = layer.kept_tokens < limit.allowed(layer.seen_tokens)
        expected = [*expected, layer.kept_tokens] if grows else [*expected[1:], expected[0]]
        layer.write(torch.full((1, 1, 1, 4), float(step)), torch.zeros(1, 1, 1, 4), limit)
        assert layer.queue.tolist() == expected
        assert layer.positions is not None
        assert int(layer.positions[0, 0, expected[-1]]) == layer.seen_tokens - 1
        assert layer.count <= len(layer.order if layer.order is not None else ())
