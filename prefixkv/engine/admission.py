"""Admission: the bytes that a request takes from its prompt to the end of its answer, reserved before it is read.

What a row may ever hold follows from its budget, its prompt's length and its longest answer, so that nothing runs out
or has to be moved while rows decode. Pure numbers: nothing here knows of tensors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from prefixkv.cache.capacity import Capacity
from prefixkv.errors import BudgetTooSmallError, PrefixKVError
from prefixkv.policy.budget import format_bytes
from prefixkv.policy.entry_size import MARK_BYTES, PLACE_BYTES, EntrySize

SPARE = 32
"""A buffer may be made larger than it must by one part in so many, and one entry a layer."""
HELD_SHARE = 2
"""While a prompt is read, layers may exceed the budget by one part in so many, where it is a share of the tokens."""
HELD_LAYERS = 4
"""Layers that are there whole beside them: the one that is read, its copy, and two for which room is made."""


@dataclass(frozen=True)
class Footprint:
    """The bytes of one request.

    Attributes:
        reading: most while its prompt is read.
        running: most from then on, to the end of the longest answer.
        parts: most on each device that has a limit of its own; none where one limit is for all together.
    """

    reading: int
    running: int
    parts: tuple[Footprint, ...] = ()

    @property
    def most(self) -> int:
        """What must be free for the request to begin."""
        return max(self.reading, self.running)

    @classmethod
    def of(
        cls,
        capacity: Capacity,
        prompt_tokens: int,
        new_tokens: int,
        small_bytes: int = 0,
        divided: Sequence[int] = (),
        even_share: Fraction = Fraction(0),
    ) -> Footprint:
        """Count what a row holds at most, whatever its prompt says about rounding.

        Args:
            capacity: of its budget and method.
            prompt_tokens: of its prompt.
            new_tokens: tokens of its answer that may be read: the longest answer but its last token, and those that
                are read before its end is noticed.
            small_bytes: a prompt whose layers take no more than this together is held whole while it is read.
            divided: how many of the compressed layers are on each device that has a limit of its own.
            even_share: the part of what all layers keep that is dealt to them evenly, as `Method.even_share` has it.
                The rest may fall to the layers of any one device.

        Raises:
            BudgetTooSmallError: the method keeps everything, and that is more than the budget allows.
        """
        capacity.check_full(capacity.geometry.layers * (prompt_tokens + new_tokens))
        every = [_Most(each, prompt_tokens, new_tokens, small_bytes, even_share) for each in capacity.outcomes]

        def within(layers: int, *parts: Footprint) -> Footprint:
            return cls(max(each.reading(layers) for each in every), max(each.running(layers) for each in every), parts)

        return within(capacity.geometry.layers, *map(within, divided))


class _Most:
    """What a row holds at most in some of its layers, where it is known what the model loses by few bits."""

    def __init__(
        self, capacity: Capacity, prompt_tokens: int, new_tokens: int, small_bytes: int, even_share: Fraction
    ) -> None:
        self._geometry = geometry = capacity.geometry
        layers, tokens = geometry.layers, prompt_tokens + new_tokens
        bits, fine = capacity.precision(prompt_tokens, None, is_evicted=False)
        heads = capacity.method.choosing_heads(geometry.kv_heads)
        self._stored, plain = (EntrySize.of(geometry, each, heads).allocated for each in (bits, None))
        self._whole = prompt_tokens * plain
        # A fine run counts as the entries in few bits that would take its bytes.
        own = capacity.beside(fine, bits) - fine
        beside = layers * own
        fits = capacity.total(prompt_tokens, bits, fine) + beside
        compacted = layers * prompt_tokens if capacity.keeps_all else fits
        if capacity.keeps_all:
            kept = layers * tokens
        elif capacity.budget.is_hard_limit:
            # A prompt that fits entirely leaves room, which the answer may fill.
            kept = max(compacted, min(capacity.stored(prompt_tokens, bits), layers * tokens + beside))
        else:
            kept = compacted + -(-new_tokens * compacted // prompt_tokens) + 2 * layers
        self._compacted, self._kept, self._tokens = compacted, kept, (prompt_tokens + own, tokens + own + 2)
        self._held = 0 if capacity.budget.is_hard_limit else compacted // HELD_SHARE
        self._waits, self._small_bytes, self._even_share = capacity.method.waits, small_bytes, even_share
        self._beside = geometry.left_bytes + MARK_BYTES * prompt_tokens + PLACE_BYTES

    def reading(self, layers: int) -> int:
        """Bytes of so many layers while the prompt is read; what is beside the entries may be with any of them."""
        all_whole = (layers + HELD_LAYERS) * self._whole
        compacted = self._within(layers, self._compacted, self._tokens[0])
        reading = (compacted + self._held) * self._stored + HELD_LAYERS * self._whole
        if self._waits or reading > all_whole:
            reading = all_whole
        return max(reading, min(layers * self._whole, self._small_bytes)) + self._beside

    def running(self, layers: int) -> int:
        """Bytes of so many layers from then on."""
        kept = self._within(layers, self._kept, self._tokens[1])
        return (kept + kept // SPARE + layers) * self._stored + self._beside

    def _within(self, layers: int, entries: int, most: int) -> int:
        """Of entries that all layers keep together, those that so many of them may have.

        Args:
            layers: these.
            entries: of all.
            most: entries of one layer.
        """
        if layers == self._geometry.layers:
            return entries
        even = math.ceil(entries * self._even_share)
        # Each layer's parts are rounded by themselves.
        return -(-even * layers // self._geometry.layers) + min(entries - even, layers * most) + 3 * layers


class Ledger:
    """The bytes that are reserved, request by request, and for what several requests share.

    Where devices have limits of their own, amounts are of each, in the order of the limits; else there is one amount.

    Attributes:
        memory_bytes: that may be reserved together.
        layers: how many compressed layers are on each device that has a limit of its own; none where none has.
    """

    def __init__(self, memory: int | Mapping[str, int], places: Iterable[str] = ()) -> None:
        """Begin with nothing reserved.

        Args:
            memory: bytes for all together; or for each device, by its name.
            places: the device of each compressed layer, where devices have limits of their own.
        """
        self._names = () if isinstance(memory, int) else tuple(memory)
        self._limits = (memory,) if isinstance(memory, int) else tuple(memory.values())
        counts = Counter(places)
        self.layers = tuple(counts[name] for name in self._names)
        self.memory_bytes = sum(self._limits)
        self._reserved: dict[int | str, tuple[int, ...]] = {}
        self._sums = [0] * len(self._limits)

    def check(self, footprint: Footprint, prompt_tokens: int) -> None:
        """Refuse what does not fit even alone.

        Raises:
            BudgetTooSmallError: says what is needed and what there is.
        """
        names = [f" on {name}" for name in self._names] or [""]
        for count, limit, where in zip(_most(footprint), self._limits, names, strict=True):
            if count > limit:
                raise BudgetTooSmallError(
                    f"the prompt's {prompt_tokens:,} tokens and the answer need {format_bytes(count)} for their "
                    f"cache{where}, and memory{where and ' there'} is {format_bytes(limit)}: give a smaller --budget, "
                    "a shorter answer or more --memory"
                )

    def fits(self, footprint: Footprint, without: Iterable[int | str] = ()) -> bool:
        """Whether a request can begin now; or could, if what is reserved under some keys were given back."""
        return self._has_room(_most(footprint), without)

    def has_room(self, amounts: Sequence[int]) -> bool:
        """Whether so many more bytes can be reserved now."""
        return self._has_room(amounts)

    def amounts(self, by_device: Mapping[str, int]) -> tuple[int, ...]:
        """What is to be reserved for tensors of which it is known how many bytes are on each device."""
        return tuple(by_device.get(name, 0) for name in self._names) or (sum(by_device.values()),)

    def spread(self, layers: int, layer_bytes: int, beside: int) -> tuple[int, ...]:
        """What is to be reserved for tensors of which every compressed layer has as many bytes.

        Args:
            layers: all compressed layers.
            layer_bytes: of each.
            beside: bytes that may be on any device.
        """
        return tuple(count * layer_bytes + beside for count in self.layers or (layers,))

    def hold(self, key: str, amounts: Sequence[int]) -> None:
        """Reserve what several requests share, until its `end`.

        Args:
            key: of what is shared.
            amounts: bytes; there is room for them.
        """
        if key in self._reserved or not self.has_room(amounts):
            raise PrefixKVError(f"{sum(amounts):,} bytes cannot be shared")
        self._set(key, tuple(amounts))

    def begin(self, number: int, footprint: Footprint) -> None:
        """Reserve what a request needs until its prompt is read.

        Args:
            number: of the request.
            footprint: of the request; fits.
        """
        if number in self._reserved or not self.fits(footprint):
            raise PrefixKVError(f"request {number} cannot be admitted")
        self._set(number, _most(footprint))

    def run(self, number: int, footprint: Footprint) -> None:
        """Give back what only reading needed."""
        self._set(number, tuple(part.running for part in footprint.parts or (footprint,)))

    def end(self, key: int | str) -> None:
        """Give back all that a request has reserved, or what was shared."""
        self._set(key, ())
        del self._reserved[key]

    def reserved(self, name: str) -> int:
        """Bytes that are reserved on a device that has a limit of its own."""
        return self._sums[self._names.index(name)]

    @property
    def reserved_bytes(self) -> int:
        """Bytes that are reserved, on all devices together."""
        return sum(self._sums)

    def _has_room(self, amounts: Sequence[int], without: Iterable[int | str] = ()) -> bool:
        sums = self._sums
        for key in without:
            sums = _changed(sums, self._reserved.get(key, ()), ())
        columns = zip(sums, amounts, self._limits, strict=True)
        return all(reserved + count <= limit for reserved, count, limit in columns)

    def _set(self, key: int | str, amounts: tuple[int, ...]) -> None:
        # Kept caches may be hundreds, and this is asked about between two steps.
        self._sums = _changed(self._sums, self._reserved.get(key, ()), amounts)
        self._reserved[key] = amounts


def _changed(sums: list[int], less: Sequence[int], more: Sequence[int]) -> list[int]:
    """Sums without one amount of each device, and with another; an empty one is nothing."""
    nothing = [0] * len(sums)
    return [each - gone + come for each, gone, come in zip(sums, less or nothing, more or nothing, strict=True)]


def _most(footprint: Footprint) -> tuple[int, ...]:
    """What must be free, on each device that has a limit of its own."""
    return tuple(part.most for part in footprint.parts or (footprint,))
