"""The methods: named recipes of scorer, heads, allocator, protected entries and eviction while decoding.

Plain data: knows nothing of torch, so that the command line can list the methods at once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from prefixkv.errors import OptionError


@dataclass(frozen=True)
class Method:
    """One recipe.

    Attributes:
        name: what the user types.
        summary: one line for help texts.
        scorer: name in `prefixkv.importance.SCORERS`; None where everything is kept.
        per_head: whether each kv head chooses its own entries; otherwise a layer's heads share one choice.
        allocator: how a layer's share is found; None where everything is kept.
        sink_tokens: first entries that are never evicted.
        recent_tokens: last entries of a chunk that are always kept when it is compacted.
        recent_fraction: share of the kept entries that the last entries take (0 = only `recent_tokens`).
        window: which kept entries are evicted while decoding, oldest first: the last 25 as in PrefixKV's fixed-distance
            deletion, the recent share, or everything behind the sinks.
    """

    name: str
    summary: str
    scorer: Literal["accumulated", "recency"] | None
    per_head: bool = False
    allocator: Literal["uniform", "prefix"] | None = None
    sink_tokens: int = 0
    recent_tokens: int = 0
    recent_fraction: float = 0.0
    window: Literal["distance", "recent", "all"] = "all"

    @property
    def floor_tokens(self) -> int:
        """Entries that every layer keeps at least (all it has read, where that is fewer)."""
        return max(1, self.sink_tokens + self.recent_tokens)

    @property
    def keeps_all(self) -> bool:
        """Whether the method never evicts, whatever the budget."""
        return self.scorer is None

    def recent_len(self, kept_len: int) -> int:
        """Newest entries that are kept whatever their importance, where a layer keeps `kept_len`."""
        return max(self.recent_tokens, int(self.recent_fraction * kept_len))

    def window_start(self, kept_len: int) -> int:
        """Index (in text order) of the first kept entry that decoding may evict; the later ones follow, oldest first.

        Args:
            kept_len: entries of the layer after its compaction.

        Returns:
            In 0 .. kept_len - 1. For `distance` it is the release's deletion index: 25 before the end, or the middle
            where the layer is shorter than that.
        """
        if self.window == "distance":
            return kept_len - DISTANCE if kept_len > DISTANCE else kept_len // 2
        start = kept_len - self.recent_len(kept_len) if self.window == "recent" else self.sink_tokens
        return max(0, min(start, kept_len - 1))


DISTANCE = 25
"""How far before the end of the kept prompt PrefixKV deletes while decoding."""

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("full", "keep everything; the budget is not applied", scorer=None),
        Method(
            "local",
            "the first 4 entries and the newest (StreamingLLM)",
            scorer="recency",
            allocator="uniform",
            sink_tokens=4,
            recent_tokens=1,
        ),
        Method(
            "h2o",
            "accumulated attention per kv head, half of it recent entries, equal layers (H2O)",
            scorer="accumulated",
            per_head=True,
            allocator="uniform",
            recent_tokens=1,
            recent_fraction=0.5,
            window="recent",
        ),
        Method(
            "prefixkv",
            "accumulated attention, every layer its own share by one threshold (PrefixKV)",
            scorer="accumulated",
            allocator="prefix",
            sink_tokens=1,
            recent_tokens=1,
            window="distance",
        ),
    )
}
"""All methods by name."""

DEFAULT_METHOD = "prefixkv"


def get_method(name: str | Method) -> Method:
    """The method of that name.

    Raises:
        OptionError: names the methods there are, and the nearest one.
    """
    if isinstance(name, Method):
        return name
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name.lower(), METHODS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise OptionError(f"method {name!r} is not known: {hint}choose one of {', '.join(METHODS)}")
