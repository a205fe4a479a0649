"""Precision: in how many bits a method that packs stores its entries, so that a budget holds enough of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, pairwise
from math import inf

from prefixkv.kernels.packed_row import PAIRS, makes_bytes
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.entry_size import EntrySize

FINE_BITS, FINE_KEY_BITS, COARSE_BITS, UNEVEN_BITS, FEWEST_BITS = 8, 84, 4, 42, 2
"""Of `PAIRS` those that a method which packs chooses from: keys and values in 8, keys in 8 and values in 4, both in 4,
keys in 4 and values in 2, and both in 2 bits."""
ROUNDED = (FINE_KEY_BITS, COARSE_BITS, UNEVEN_BITS, FEWEST_BITS)
"""Those of which a profile says what they lose."""
FINE_OF = {UNEVEN_BITS: COARSE_BITS, FEWEST_BITS: UNEVEN_BITS}
"""Where a layer's entries are in two precisions: that of the most important ones, its fine run, by that of the others:
first values lose bits, then keys."""
HELD_UNEVEN = 0.75
"""Entries are in `UNEVEN_BITS` beside a fine run where a budget holds at least this share of them in those."""
FINE_LINES = {UNEVEN_BITS: (2.5, 1.5), FEWEST_BITS: (2.0, 0.8)}
"""By the bits beside it: of the bytes the fine run has so many times the share of the entries that its bits would hold,
less a constant: lines through what lost least at 20, 14, 10 and 5 % (docs/results/leads.json)."""
SLIGHT_LOSS, BEARABLE_LOSS = 0.002, 0.05
"""Nats a token by which a model may diverge where its prompt is rounded, for twice the entries: always, or where they
are scarce. A few elements of great size, as Qwen2's biases make them, leave nothing of keys in 4 bits."""
ENOUGH = {FINE_BITS: 0.75, COARSE_BITS: 0.6}
"""By bits: they are used where the budget then holds at least this share of the entries, whatever fewer bits lose."""
SCARCE = 0.3
"""The same where fewer bits lose more than slightly: a model misses what is evicted beyond this more than precision."""
CLEARLY = 0.75
"""Two precisions are taken where they lose less than this part of what one loses: a profile's samples are few."""
BY_A_TENTH = 0.9
"""More bits are taken where they lose less than this part of what fewer lose, which hold more entries: what is evicted
is missed most in what the samples do not show."""
NEARLY_ALL = 0.95
"""Bits that hold this share of the entries and lose no more than slightly come before other bits that evict more.
Rounding harms all answers a little, and evicting few of them much, of which a profile's samples may have none. What two
precisions lose is measured as they are."""
TYPICAL_EVICTION = {0.5: 0.05, 0.35: 0.1, 0.2: 0.2, 0.1: 0.4}
"""What evicting is taken to lose where nobody measured it, in nats a token by the share that is kept: about what
SmolLM2 loses in texts."""


@dataclass(frozen=True)
class Losses:
    """What a model was measured to lose, in nats a token along its own answers.

    Attributes:
        rounding: by bits, of `ROUNDED`, where all entries are kept and rounded, those of the answer too; what was not
            measured is not used.
        eviction: by the share of the entries that `guided` keeps, where those are stored as they are; empty where it
            was not measured.
        mixed: by the share of a 16-bit cache's bytes, where `guided` keeps as many entries as that holds in two
            precisions, rounding and eviction together; empty where it was not measured.
    """

    rounding: Mapping[int, float] = field(default_factory=dict)
    eviction: Mapping[float, float] = field(default_factory=dict)
    mixed: Mapping[float, float] = field(default_factory=dict)

    def of_evicting(self, share: float) -> float:
        """What is lost where such a share is kept.

        Between the measured shares, and below them, on straight lines. Above them by the square of what is evicted: the
        first entries that go are those that nothing looks at. Who keeps less is taken to lose no less, which few
        samples need not show.
        """
        most, least_lost = max(self.eviction), self.eviction[max(self.eviction)]
        if share >= most:
            return least_lost * ((1 - share) / (1 - most)) ** 2
        return _between(self.eviction, share)

    def of_mixing(self, share: float) -> float:
        """What is lost in two precisions at a share of the bytes; infinite below the measured shares."""
        if not self.mixed or share < min(self.mixed):
            return inf
        return _between(self.mixed, min(share, max(self.mixed)))


def _between(lost: Mapping[float, float], share: float) -> float:
    """The value at a share on straight lines through measured ones, below the least on the first; it never rises."""
    shares = sorted(lost, reverse=True)
    points = sorted(zip(shares, accumulate((lost[each] for each in shares), max), strict=True))
    if len(points) == 1:
        return points[0][1]
    (low, more), (high, less) = next(pair for pair in pairwise(points) if share <= pair[1][0])
    return less + (more - less) * (high - share) / (high - low)


def fine_tokens(room_bytes: int, entries: int, layers: int, fine_price: int, beside: int) -> int:
    """How many entries of each layer are stored in more bits, where a budget is shared between two precisions.

    Of a budget that holds most entries in more bits they take nearly all, since entries that little looks at do harm
    in few bits: their noise draws attention. The fewer it holds, the more is worth an entry against its precision.

    Args:
        room_bytes: bytes that the entries of all layers may take.
        entries: entries that there are in all layers.
        layers: of the model.
        fine_price: bytes of an entry in more bits.
        beside: bits of the other entries, one of `FINE_OF`.
    """
    held = min(entries, room_bytes // fine_price)
    slope, start = FINE_LINES[beside]
    share = min(1.0, max(0.0, slope * held / entries - start))
    return int(share * held) // layers


def loses_less_mixed(geometry: KVGeometry, room_bytes: int, entries: int, bits: int, losses: Losses) -> bool:
    """Whether a model loses clearly less by two precisions than in `bits`, the answer of `packed_bits`; as for that."""
    held = room_bytes / (entries * EntrySize.of(geometry, bits).stored)
    lost = losses.rounding.get(bits, 0.0) + losses.of_evicting(min(1.0, held)) if losses.eviction else inf
    return losses.of_mixing(room_bytes / (entries * geometry.counted_bytes)) < CLEARLY * lost


def packed_bits(geometry: KVGeometry, room_bytes: int, entries: int, before: int | None, losses: Losses) -> int:
    """The bits for a budget that does not hold all entries as they are.

    Where rounding and eviction were both measured, the most of those that hold nearly all entries and lose no more than
    slightly; where there are none, the fewest, unless the model loses a tenth less by more. Else fewer bits where few
    entries are held, as far as the model bears them.

    Args:
        geometry: the model's KV shape.
        room_bytes: bytes that entries may take.
        entries: entries that there are.
        before: bits in which earlier entries are stored; precision never rises, since what is lost does not come back.
        losses: what the model was measured to lose.
    """
    held = {bits: room_bytes / (entries * EntrySize.of(geometry, bits).stored) for bits in _possible(geometry, losses)}
    slight = [bits for bits, share in held.items() if _is_slight(share, bits, losses)]
    if losses.eviction and slight:
        bits = min(slight, key=PAIRS.index)
    elif losses.eviction:
        lost = {
            bits: losses.rounding.get(bits, 0.0) + losses.of_evicting(min(1.0, share)) for bits, share in held.items()
        }
        bits = reduce(
            lambda fewer, more: more if lost[more] < BY_A_TENTH * lost[fewer] else fewer,
            sorted(lost, key=PAIRS.index, reverse=True),
        )
    else:
        bits = _by_scarcity(held, losses.rounding)
    return fewer_bits(bits, before)


def _is_slight(held: float, bits: int, losses: Losses) -> bool:
    """Whether bits of which a budget holds such a share of the entries evict next to nothing, and round little."""
    return held >= NEARLY_ALL and losses.rounding.get(bits, 0.0) <= SLIGHT_LOSS


def fewer_bits(bits: int, before: int | None) -> int:
    """Those of two of `PAIRS` that take less, since what was stored in few bits gains nothing by more."""
    return bits if before is None else max(bits, before, key=PAIRS.index)


def beside_bits(geometry: KVGeometry, room_bytes: int, entries: int) -> int:
    """The bits of entries beside a fine run; as for `packed_bits`."""
    held = room_bytes / (entries * EntrySize.of(geometry, UNEVEN_BITS).stored)
    return UNEVEN_BITS if held >= HELD_UNEVEN else FEWEST_BITS


def _possible(geometry: KVGeometry, losses: Losses) -> Iterator[int]:
    yield FINE_BITS
    for bits in ROUNDED:
        # A row is whole bytes.
        if bits in losses.rounding and makes_bytes(bits, *geometry.shape[1:]):
            yield bits


def _by_scarcity(held: Mapping[int, float], rounding: Mapping[int, float]) -> int:
    bits = FINE_BITS
    for narrower in (COARSE_BITS, FEWEST_BITS):
        if narrower not in held or rounding[narrower] > BEARABLE_LOSS:
            break
        if held[bits] >= (ENOUGH[bits] if rounding[narrower] <= SLIGHT_LOSS else SCARCE):
            break
        bits = narrower
    return bits
