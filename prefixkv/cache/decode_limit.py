"""How many entries a layer may hold while it decodes, and what follows from that for any number of steps. Pure numbers.

A layer below its limit stores the next token behind its entries; one at its limit stores it over the oldest entry of
its eviction queue. No limit ever falls, nor rises by more than one a token, so what a layer holds after many steps is
known without taking them: a captured step counts on the device, and the host catches up when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class DecodeLimit:
    """A layer's limit.

    Attributes:
        fixed: a number of entries that holds whatever is read (a hard limit); None for a share.
        anchor_kept: of a share, entries stored when the layer was last compacted; with `anchor_seen` the share itself.
        anchor_seen: tokens read then.
        is_release: whether the share is of all tokens read and may be exceeded by one entry, as in PrefixKV's release.
        beside: of a share, entries of a fine run beside the buffer; in a release their number, else as many of the
            buffer's as take their bytes, since what grows with the text is the buffer.
    """

    fixed: int | None = None
    anchor_kept: int = 1
    anchor_seen: int = 1
    is_release: bool = False
    beside: int = 0

    @classmethod
    def of_anchor(cls, kept: int, seen: int, beside: int = 0) -> DecodeLimit:
        """As many of the tokens that come as of those read, whose entries count as `kept + beside` of the buffer's."""
        return cls(None, kept, seen, beside=min(beside, seen - kept))

    @classmethod
    def of_share(cls, share: float | Fraction, beside: int = 0) -> DecodeLimit:
        """The release's limit for a share of the tokens read, with so many entries in a fine run."""
        exact = Fraction(share).limit_denominator(2**20)
        return cls(None, exact.numerator, exact.denominator, True, beside)

    def allowed(self, seen_tokens: int) -> int:
        """Entries that the layer may hold when it has read one token more.

        Args:
            seen_tokens: tokens read so far.
        """
        if self.fixed is not None:
            return self.fixed
        if self.is_release:
            return -(-seen_tokens * self.anchor_kept // self.anchor_seen) + 1 - self.beside
        generated = seen_tokens + 1 - self.anchor_seen
        return self.anchor_kept + generated * (self.anchor_kept + self.beside) // self.anchor_seen

    def kept_after(self, kept_tokens: int, seen_tokens: int, steps: int) -> int:
        """Entries that the layer holds after some steps.

        Args:
            kept_tokens: entries before them.
            seen_tokens: tokens read before them.
            steps: tokens that are read, one a step.
        """
        if steps == 0:
            return kept_tokens
        return max(kept_tokens, min(kept_tokens + steps, self.allowed(seen_tokens + steps - 1)))

    def steps_within(self, capacity: int, kept_tokens: int, seen_tokens: int, most: int) -> int:
        """Steps, up to `most`, after which the layer still holds no more than `capacity` entries."""
        if self.kept_after(kept_tokens, seen_tokens, most) <= capacity:
            return most
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.kept_after(kept_tokens, seen_tokens, middle) <= capacity:
                low = middle
            else:
                high = middle - 1
        return low
