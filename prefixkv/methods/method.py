"""A method: three pure functions (score, allocate, select) and what the cache must know to call them.

Knows nothing of torch, so that the command line can list the methods at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, get_args

from prefixkv.errors import OptionError
from prefixkv.methods.allocation import EVEN_SHARES
from prefixkv.methods.layers_read import LayersRead

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence

LASTING = 2
"""The most important one part in so many of the kept entries is never evicted, with `least`."""
FEW = 16
"""So many entries of each kind come first where a layer holds only a few (`prefixkv.methods.precedence`)."""
WRITTEN = 6
"""One part in so many of the kept entries makes way for what is written, with `least` and `written_tokens`."""
DISTANCE = 25
"""How far before the end of the kept prompt PrefixKV deletes while decoding."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")

Shares = Literal["known", "falling", "final"]
Queries = Literal["summed", "all", "window", "none"]
Eviction = Literal["distance", "recent", "all", "least"]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: what the user types: lower-case letters, digits, and `-`, `_` and `.` within.
        summary: one line for tables.
        score: gives each entry of a layer its importance, (batch, kv_heads, entries), float32, finite, higher = keep,
            from what the layer knows when it has read; None where everything is kept.
        allocate: gives each layer that has read its number of entries; None where everything is kept.
        select: gives the entries that stay, (batch, heads, kept), int64, from their importance, (batch, heads,
            entries), and their number; None for the protected ones and then the most important.
        shares: when `allocate` can be asked: before anything is read (`known`), after every layer, whose share never
            rises with further ones (`falling`), or when all have read (`final`), so that all is held until then.
        queries: those that `score` looks at: the attention of all, summed, which the model's own attention can add up
            (`summed`), `all`, the last ones (`window`), or `none`.
        adds_up: whether what entries have borne in earlier chunks is added to their score.
        is_guided: whether a profile's look-ahead queries are of use to `score`, which then looks at no other queries
            than the last and these.
        moves: whether `score` moves queries to places behind the chunk, for which it is given the model's rotation.
        per_head: whether each kv head chooses its own entries; otherwise a layer's heads share one choice.
        sink_tokens: first entries that are never evicted.
        recent_tokens: last entries of a chunk that are always kept when it is compacted.
        recent_fraction: share of the kept entries that the last entries take (0 = only `recent_tokens`).
        recent_most: most entries that `recent_fraction` stands for.
        keeps_text: whether entries of text are kept before any entry of a picture.
        window: which kept entries are evicted while decoding: the last 25 as in PrefixKV's fixed-distance deletion, the
            recent share, or everything behind the sinks, oldest first; or the least important ones, least important
            first. Generated entries follow, oldest first.
        written_tokens: with `least`, so many of the kept entries make way for the last tokens written, or a sixth where
            that is more, as far as half of the entries stays; half of them where it is 0.
        newest_first: with `least`, whether a chunk's last entries, `FEW` at most, rank first where layers hold few
            (see `newest_len`), and make way while decoding.
        positions: where the model believes to be: at its true place in the text, or at the length of the first layer's
            compressed cache, as PrefixKV's release has it.
        rounding: of shares while decoding and from a configuration: exact, or as PrefixKV's release has it.
        packs: whether entries are stored in 8, 4 or 2 bits an element where the budget cannot hold all as they are.

    Raises:
        OptionError: a part of it is not allowed.
    """

    name: str
    summary: str
    score: Callable[[Evidence], torch.Tensor] | None
    allocate: Callable[[LayersRead], Sequence[int]] | None = None
    select: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    shares: Shares = "known"
    queries: Queries = "all"
    adds_up: bool = False
    is_guided: bool = False
    moves: bool = False
    per_head: bool = False
    sink_tokens: int = 0
    recent_tokens: int = 0
    recent_fraction: float = 0.0
    recent_most: int | None = None
    keeps_text: bool = False
    window: Eviction = "all"
    written_tokens: int = 0
    newest_first: bool = False
    positions: Literal["true", "compressed"] = "true"
    rounding: Literal["exact", "release"] = "exact"
    packs: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not be run."""
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            self._refuse(f"a name has up to 40 of a-z, 0-9, '.', '_' and '-', and {self.name!r} has not")
        if (self.score is None) != (self.allocate is None):
            self._refuse("give both score and allocate, or neither to keep everything")
        for part in ("score", "allocate", "select"):
            if not isinstance(getattr(self, part), FunctionType | None):
                self._refuse(f"{part} must be a function, and is of type {type(getattr(self, part)).__name__}")
        for part, choices in (("shares", Shares), ("queries", Queries), ("window", Eviction)):
            if getattr(self, part) not in get_args(choices):
                self._refuse(f"{part} is {getattr(self, part)!r}: choose one of {', '.join(get_args(choices))}")
        counts = (self.sink_tokens, self.recent_tokens, self.recent_most or 0, self.written_tokens)
        if any(not isinstance(count, int) or count < 0 for count in counts) or not 0 <= self.recent_fraction <= 1:
            self._refuse("protected entries are whole numbers from 0 on, and their share is from 0 to 1")

    def _refuse(self, reason: str) -> None:
        raise OptionError(f"method {self.name!r} cannot be used: {reason}")

    @property
    def functions(self) -> dict[str, Any]:
        """Those of the three functions that it has, by their part."""
        parts = {part: getattr(self, part) for part in ("score", "allocate", "select")}
        return {part: function for part, function in parts.items() if function is not None}

    @property
    def is_foreign(self) -> bool:
        """Whether a function of it comes from outside the package, so that what it returns is checked."""
        return any(function.__module__.split(".")[0] != __name__.split(".")[0] for function in self.functions.values())

    @property
    def allocation(self) -> str | None:
        """What its way of sharing is called; None where everything is kept."""
        return None if self.allocate is None else self.allocate.__name__

    @property
    def even_share(self) -> Fraction:
        """The part of what all layers keep that is dealt to them evenly; nothing is known of a foreign allocator."""
        return Fraction(0) if self.is_foreign else EVEN_SHARES.get(self.allocation or "", Fraction(0))

    @property
    def floor_tokens(self) -> int:
        """Entries that every layer keeps at least (all it has read, where that is fewer)."""
        return max(1, self.sink_tokens + self.recent_tokens)

    def choosing_heads(self, kv_heads: int) -> int:
        """How many of a layer's kv heads choose by themselves; 1 where they share a choice."""
        return kv_heads if self.per_head else 1

    @property
    def keeps_all(self) -> bool:
        """Whether the method never evicts, whatever the budget."""
        return self.score is None

    @property
    def waits(self) -> bool:
        """Whether layers are cut only when all have read the prompt, so that until then all is kept."""
        return self.shares == "final" or (self.shares == "falling" and self.select is not None)

    def recent_len(self, kept_len: int) -> int:
        """Newest entries that are kept whatever their importance, where a layer keeps `kept_len`."""
        share = int(self.recent_fraction * kept_len)
        return max(self.recent_tokens, share if self.recent_most is None else min(share, self.recent_most))

    def newest_len(self, even: int) -> int:
        """The last entries of a chunk that take every second one of the first ranks, with `newest_first`.

        `FEW` where layers hold up to twice as many, of which decoding then evicts these only; fewer where they hold
        more, and none where `written_tokens` of twice `FEW` leave half of the entries.

        Args:
            even: entries that a layer holds in the mean.
        """
        return min(FEW, max(0, 2 * FEW - even // 2)) if self.newest_first else 0

    def evictable(self, kept_len: int, newest: int = 0) -> list[range]:
        """Kept entries that decoding may evict, the first one first; generated entries follow when these are gone.

        Args:
            kept_len: entries of the layer after its compaction.
            newest: how many of the chunk's last entries have every second one of the first ranks.

        Returns:
            Indices into the kept entries, of which there is at least one: in text order; for `least` in the order of
            importance, highest first. For `distance` they begin with the release's deletion index: 25 before the
            end, or the middle where the layer is shorter than that.
        """
        if self.window == "least":
            most = max(self.written_tokens, kept_len // WRITTEN) if self.written_tokens else kept_len
            most = max(1, min(most, kept_len - kept_len // LASTING))
            behind = min(2 * newest, kept_len)
            oldest_first = range((behind - 1) // 2 * 2, -1, -2)[:most]
            least = range(kept_len - 1, kept_len - 1 - (most - len(oldest_first)), -1)
            return [each for each in (least, oldest_first) if each]
        if self.window == "distance":
            start = kept_len - DISTANCE if kept_len > DISTANCE else kept_len // 2
        elif self.window == "recent":
            start = kept_len - self.recent_len(kept_len)
        else:
            start = self.sink_tokens
        return [range(max(0, min(start, kept_len - 1)), kept_len)]
