"""Capacity: how many entries a budget holds, in the precision in which they are stored. Pure numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from prefixkv.errors import BudgetTooSmallError, OptionError
from prefixkv.methods.allocation import uniform
from prefixkv.methods.method import Method
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import CODECS, DEFAULT_CODEC, Codec
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.precision import (
    FINE_OF,
    ROUNDED,
    TYPICAL_EVICTION,
    Losses,
    beside_bits,
    fewer_bits,
    fine_tokens,
    loses_less_mixed,
    packed_bits,
)


@dataclass(frozen=True)
class Capacity:
    """What fits.

    Attributes:
        geometry: the model's KV shape.
        budget: what may be stored.
        method: says what every layer keeps at least, and whether anything is evicted at all.
        losses: what the model was measured to lose; only codec `auto` uses it.
        codec: in which precision entries are stored.

    Raises:
        OptionError: the codec cannot store the model's vectors.
        BudgetTooSmallError: a hard limit cannot hold what the method keeps of every layer at least, or a share all that
            a method keeps which never evicts.
    """

    geometry: KVGeometry
    budget: Budget
    method: Method
    losses: Losses = field(default_factory=Losses)
    codec: Codec = CODECS[DEFAULT_CODEC]

    def __post_init__(self) -> None:
        """Check that codec and model go together, and that the floors fit."""
        self.codec.check(self.geometry)
        if self.codec.is_mixed and self.keeps_all:
            raise OptionError(
                f"codec {self.codec.name!r} stores the most important entries in more bits, and where everything is "
                f"kept nothing says which these are: choose another codec, or a method other than 'full' and a budget "
                "below 100%"
            )
        if self.budget.kind == "bytes" and self.geometry.state_bytes is None:
            raise OptionError(
                f"budget {self.budget.text!r} has to hold states of {len(self.geometry.state_layers)} layers, whose "
                "size is not known before the model runs: give a share such as 20%, or tokens such as 300tok"
            )
        self.check_floor()
        least = Fraction(self.codec.entry_size(self.geometry).counted, self.geometry.counted_bytes)
        is_share = self.budget.kind == "fraction"
        if self.method.keeps_all and is_share and not self.codec.is_auto and self.budget.amount < least:
            hundredths = -(-10_000 * least.numerator // least.denominator)
            raise BudgetTooSmallError(
                f"method {self.method.name!r} keeps everything, which takes {float(least):.2%} of the cache in codec "
                f"{self.codec.name!r}, and the budget is {self.budget.text!r}: give at least {hundredths / 100:g}%"
            )

    def check_floor(self, batch: int = 1, seen_tokens: int = 0) -> None:
        """Refuse a hard limit that cannot hold what the method keeps of every layer at least.

        Args:
            batch: rows that share a budget in bytes.
            seen_tokens: tokens read, or about to be.

        Raises:
            BudgetTooSmallError: says the smallest budget that works.
        """
        size = self._size(self.codec.bits)
        self.budget.check_floor(self.geometry, self.method.floor_tokens, batch, size, seen_tokens)

    def _size(self, bits: int | None) -> EntrySize:
        return EntrySize.of(self.geometry, bits, self.method.choosing_heads(self.geometry.kv_heads))

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever evicted: method `full`, or a budget of 100 %."""
        return self.method.keeps_all or self.budget.is_whole

    @property
    def is_unmeasured(self) -> bool:
        """Whether the bits depend on what the model loses by them, and nobody has said that."""
        return self.codec.is_auto and self.method.packs and not self.keeps_all and not self.losses.rounding

    @property
    def outcomes(self) -> tuple[Capacity, ...]:
        """This, and what it may become once a prompt has said what the model loses by few bits."""
        measured = (replace(self, losses=Losses({bits: 0.0}, TYPICAL_EVICTION)) for bits in ROUNDED)
        return (self, *measured) if self.is_unmeasured else (self,)

    def holds_all(self, seen_tokens: int, bits: int | None = None, fine: int = 0) -> bool:
        """Whether every entry fits; as for `stored`."""
        return self.geometry.layers * seen_tokens <= self.stored(seen_tokens, bits, fine)

    def check_full(self, entries: int) -> None:
        """Refuse what a method that keeps everything cannot store any more under a hard limit.

        Args:
            entries: of all layers together.

        Raises:
            BudgetTooSmallError: they are too many.
        """
        if (
            self.keeps_all
            and self.budget.is_hard_limit
            and entries > self.stored(entries // self.geometry.layers, self.codec.bits)
        ):
            raise BudgetTooSmallError(
                f"method {self.method.name!r} keeps everything, and that is more than budget {self.budget.text!r} "
                "allows: choose another method or a larger budget"
            )

    def precision(
        self, seen_tokens: int, before: int | None, is_evicted: bool, had_fine: bool = False
    ) -> tuple[int | None, int]:
        """In how many bits an element is stored from now on, and how many entries of each layer in more; 0 for none.

        Args:
            seen_tokens: tokens read.
            before: bits of what is stored already.
            is_evicted: as for `bits`.
            had_fine: whether layers have fine runs already; else what is in as few bits as those beside one stays so.
        """
        bits, is_mixed = self.bits(seen_tokens, before, is_evicted), self.codec.is_mixed
        room, entries = self.budget.room_bytes(self.geometry, seen_tokens), self.geometry.layers * seen_tokens
        if self.codec.is_auto and bits is not None and self.losses.mixed and (had_fine or before not in FINE_OF):
            is_mixed = loses_less_mixed(self.geometry, room, entries, bits, self.losses)
        if not is_mixed:
            return bits, 0
        beside = fewer_bits(beside_bits(self.geometry, room, entries), before)
        price = self.budget.price(self._size(FINE_OF[beside]))
        return beside, min(fine_tokens(room, entries, self.geometry.layers, price, beside), seen_tokens - 1)

    def bits(self, seen_tokens: int, before: int | None, is_evicted: bool) -> int | None:
        """In how many bits an element is stored from now on; None for the model's precision.

        Args:
            seen_tokens: tokens read.
            before: bits of what is stored already.
            is_evicted: whether entries were evicted or packed before, so that not all can be had as they were.
        """
        if not self.codec.is_auto:
            return self.codec.bits
        if not self.method.packs or self.keeps_all or (self.holds_all(seen_tokens) and not is_evicted):
            return None
        room = self.budget.room_bytes(self.geometry, seen_tokens)
        return packed_bits(self.geometry, room, self.geometry.layers * seen_tokens, before, self.losses)

    def beside(self, fine: int, bits: int | None) -> int:
        """As how many entries of a layer's buffer, rounded up, its fine run counts.

        Args:
            fine: entries of the fine run.
            bits: of the others.
        """
        if not fine or bits is None:
            return 0
        return -(-fine * self.budget.price(self._size(FINE_OF[bits])) // self.budget.price(self._size(bits)))

    def stored(self, seen_tokens: int, bits: int | None, fine: int = 0) -> int:
        """Entries of all layers, as they are stored, that fit once `seen_tokens` are read; there may be fewer.

        Args:
            seen_tokens: tokens read.
            bits: of a stored element; None for the model's precision.
            fine: entries of each layer's fine run, which fit.
        """
        more = self.geometry.layers * (self.beside(fine, bits) - fine)
        return max(0, self.budget.entries(self.geometry, seen_tokens, size=self._size(bits)) - more)

    def limits(self, kept: Sequence[tuple[int, int]], seen_tokens: int, bits: int | None) -> list[int]:
        """Entries that each layer's buffer may hold from now on: what it has, under a hard limit also what is left.

        Args:
            kept: entries of each layer's buffer, and of its fine run.
            seen_tokens: tokens read.
            bits: of a stored element; None for the model's precision.
        """
        if not self.budget.is_hard_limit:
            return [own for own, _ in kept]
        room = max(0, self.stored(seen_tokens, bits) - sum(own + self.beside(fine, bits) for own, fine in kept))
        return [own + more for (own, _), more in zip(kept, uniform(room, len(kept)), strict=True)]

    def total(self, seen_tokens: int, bits: int | None, fine: int = 0) -> int:
        """Entries that all layers together may store: what fits, no more than there are, no fewer than the floors.

        A hard limit holds whatever the floors are, which fit into it.

        Args:
            seen_tokens: tokens read.
            bits: of a stored element; None for the model's precision.
            fine: entries of each layer's fine run.
        """
        total, layers = self.stored(seen_tokens, bits, fine), self.geometry.layers
        if not self.budget.is_hard_limit:
            total = max(total, layers * min(seen_tokens, self.method.floor_tokens))
        return min(total, layers * seen_tokens)
