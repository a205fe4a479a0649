"""`guided`: what a model will look at while it answers, learnt from its answers to samples, or the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.methods import allocation
from prefixkv.methods.layers_read import LayersRead
from prefixkv.methods.method import FEW, Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence


def foreseen(evidence: Evidence) -> torch.Tensor:
    """How far the output of attention may move without an entry, for any query that stands for what comes next.

    That follows from the largest attention that such a query pays to the entry and from the length of its value. The
    queries are the prompt's last text queries, for what it asks, and the look-ahead queries of a profile, for what the
    model will look at while it answers. Without a profile a sample of the prompt's own queries stands for those: what
    parts of a text or a picture look at in each other is what a model looks at that goes through them. The maximum,
    since an entry that is needed once is needed; but of few entries some are the first by the mean attention.
    """
    return evidence.foreseen()


def mixed(read: LayersRead) -> list[int]:
    """Most of it even, the rest by the threshold over all that has arrived, as a cut does not follow the threshold.

    No layer goes below `2 * FEW` entries, or the even share where that is less: with a few entries each, a layer that
    lacks some does more harm than another has good of them.
    """
    even = allocation.uniform(read.total, read.layers)
    even = [min(len(curve), count) for curve, count in zip(read.curves, even, strict=False)]
    floor = allocation.mixed_floor(2 * FEW, min(even), read.floor)
    room = max(read.room, floor * len(even))
    counts = allocation.mixed(even, allocation.prefix(read.curves, room, floor))
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
    is_guided=True,
    per_head=True,
    recent_tokens=1,
    window="least",
    written_tokens=32,
    newest_first=True,
    packs=True,
)
