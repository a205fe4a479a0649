"""Admission: the bytes that a request takes from its prompt to the end of its answer, reserved before it is read.

What a row may ever hold follows from its budget, its prompt's length and its longest answer, so that nothing runs out
or has to be moved while rows decode. Pure numbers: nothing here knows of tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    reading: int
    running: int

    @property
    def most(self) -> int:
        """What must be free for the request to begin."""
        return max(self.reading, self.running)

    @classmethod
    def of(cls, capacity: Capacity, prompt_tokens: int, new_tokens: int, small_bytes: int = 0) -> Footprint:
        """Count what a row holds at most, whatever its prompt says about rounding.

        Args:
            capacity: of its budget and method.
            prompt_tokens: of its prompt.
            new_tokens: tokens of its answer that may be read: the longest answer but its last token, and those that
                are read before its end is noticed.
            small_bytes: a prompt whose layers take no more than this together is held whole while it is read.

        Raises:
            BudgetTooSmallError: the method keeps everything, and that is more than the budget allows.
        """
        capacity.check_full(capacity.geometry.layers * (prompt_tokens + new_tokens))
        every = [cls._of(each, prompt_tokens, new_tokens, small_bytes) for each in capacity.outcomes]
        return cls(max(each.reading for each in every), max(each.running for each in every))

    @classmethod
    def _of(cls, capacity: Capacity, prompt_tokens: int, new_tokens: int, small_bytes: int) -> Footprint:
        """The same, where it is known what the model loses by few bits."""
        geometry = capacity.geometry
        layers, tokens = geometry.layers, prompt_tokens + new_tokens
        bits, fine = capacity.precision(prompt_tokens, None, is_evicted=False)
        heads = capacity.method.choosing_heads(geometry.kv_heads)
        stored, plain = (EntrySize.of(geometry, each, heads).allocated for each in (bits, None))
        whole = prompt_tokens * plain
        # A fine run counts as the entries in few bits that would take its bytes.
        beside = layers * (capacity.beside(fine, bits) - fine)
        compacted = layers * prompt_tokens if capacity.keeps_all else capacity.total(prompt_tokens, bits, fine) + beside
        if capacity.keeps_all:
            kept = layers * tokens
        elif capacity.budget.is_hard_limit:
            # A prompt that fits entirely leaves room, which the answer may fill.
            kept = max(compacted, min(capacity.stored(prompt_tokens, bits), layers * tokens + beside))
        else:
            kept = compacted + -(-new_tokens * compacted // prompt_tokens) + 2 * layers
        held = 0 if capacity.budget.is_hard_limit else compacted // HELD_SHARE
        reading = (compacted + held) * stored + HELD_LAYERS * whole
        if capacity.method.waits or reading > (layers + HELD_LAYERS) * whole:
            reading = (layers + HELD_LAYERS) * whole
        reading = max(reading, min(layers * whole, small_bytes))
        spare = kept // SPARE + layers
        beside = geometry.left_bytes + MARK_BYTES * prompt_tokens + PLACE_BYTES
        return cls(reading + beside, (kept + spare) * stored + beside)


class Ledger:
    """The bytes that are reserved, request by request, and for what several requests share.

    Attributes:
        memory_bytes: that may be reserved together.
        reserved_bytes: that are.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.reserved_bytes = 0
        self._reserved: dict[int | str, int] = {}

    def check(self, footprint: Footprint, prompt_tokens: int) -> None:
        """Refuse what does not fit even alone.

        Raises:
            BudgetTooSmallError: says what is needed and what there is.
        """
        if footprint.most > self.memory_bytes:
            raise BudgetTooSmallError(
                f"the prompt's {prompt_tokens:,} tokens and the answer need {format_bytes(footprint.most)} for their "
                f"cache, and memory is {format_bytes(self.memory_bytes)}: give a smaller --budget, a shorter answer or "
                "more --memory"
            )

    def fits(self, footprint: Footprint) -> bool:
        """Whether a request can begin now."""
        return self.has_room(footprint.most)

    def has_room(self, count: int) -> bool:
        """Whether so many more bytes can be reserved now."""
        return self.reserved_bytes + count <= self.memory_bytes

    def hold(self, key: str, count: int) -> None:
        """Reserve what several requests share, until its `end`.

        Args:
            key: of what is shared.
            count: bytes; there is room for them.
        """
        if key in self._reserved or not self.has_room(count):
            raise PrefixKVError(f"{count:,} bytes cannot be shared")
        self._set(key, count)

    def begin(self, number: int, footprint: Footprint) -> None:
        """Reserve what a request needs until its prompt is read.

        Args:
            number: of the request.
            footprint: of the request; fits.
        """
        if number in self._reserved or not self.fits(footprint):
            raise PrefixKVError(f"request {number} cannot be admitted")
        self._set(number, footprint.most)

    def run(self, number: int, footprint: Footprint) -> None:
        """Give back what only reading needed."""
        self._set(number, footprint.running)

    def end(self, key: int | str) -> None:
        """Give back all that a request has reserved, or what was shared."""
        self._set(key, 0)
        del self._reserved[key]

    def _set(self, key: int | str, count: int) -> None:
        self.reserved_bytes += count - self._reserved.get(key, 0)
        self._reserved[key] = count
