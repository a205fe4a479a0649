"""`guided`: what a model will look at while it answers, learnt from its answers to calibration samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.methods import allocation
from prefixkv.methods.layers_read import LayersRead
from prefixkv.methods.method import Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence


def foreseen(evidence: Evidence) -> torch.Tensor:
    """The largest attention that any query pays of those that stand for what comes next.

    These are the prompt's last text queries, for what it asks, and the look-ahead queries of a profile, for what the
    model will look at while it answers. The maximum, since an entry that is needed once is needed.

    Without look-ahead queries it is the mean attention of the last text queries and, for what they do not ask, the
    attention of all queries that could see an entry, each normalised to 1.
    """
    if evidence.look_ahead is not None:
        return evidence.peak()
    seen = evidence.attention(evidence.queries) * evidence.parts_seen
    asked = evidence.attention(evidence.question) * (0.5 / evidence.question.shape[2])
    return asked.addcdiv(seen, seen.sum(dim=-1, keepdim=True), value=0.5)


def mixed(read: LayersRead) -> list[int]:
    """Most of it even, the rest by the threshold over all that has arrived, as a cut does not follow the threshold."""
    even = allocation.uniform(read.total, read.layers)
    even = [min(len(curve), count) for curve, count in zip(read.curves, even, strict=False)]
    counts = allocation.mixed(even, allocation.prefix(read.curves, read.room, read.floor))
    if read.is_hard_limit:
        counts = allocation.trimmed(counts, read.room)
    elif len(read.curves) < read.layers:
        # Which fractions are rounded up changes as shares fall.
        counts = [count + 1 for count in counts]
    return counts


GUIDED = Method(
    "guided",
    "what the model will look at while it answers, learnt from a profile; packed to 8, 4 or 2 bits",
    foreseen,
    mixed,
    shares="falling",
    queries="summed",
    is_guided=True,
    per_head=True,
    recent_tokens=1,
    window="least",
    written_tokens=32,
    packs=True,
)
