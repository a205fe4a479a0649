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
        scorer: name in `prefixkv.policy.importance.SCORERS`; None where everything is kept.
        per_head: whether each kv head chooses its own entries; otherwise a layer's heads share one choice.
        allocator: how a layer's share is found, see `prefixkv.policy.shares`; None where everything is kept.
        sink_tokens: first entries that are never evicted.
        recent_tokens: last entries of a chunk that are always kept when it is compacted.
        recent_fraction: share of the kept entries that the last entries take (0 = only `recent_tokens`).
        recent_most: most entries that `recent_fraction` stands for.
        keeps_text: whether entries of text are kept before any entry of a picture.
        window: which kept entries are evicted while decoding: the last 25 as in PrefixKV's fixed-distance deletion, the
            recent share, or everything behind the sinks, oldest first; or the least important half, least important
            first. Generated entries follow, oldest first.
        positions: where the model believes to be: at its true place in the text, or at the length of the first layer's
            compressed cache, as PrefixKV's release has it.
        packs: whether entries are stored in 8, 4 or 2 bits an element where the budget cannot hold all as they are.
    """

    name: str
    summary: str
    scorer: Literal["accumulated", "recency", "window", "text", "guided"] | None
    per_head: bool = False
    allocator: Literal["uniform", "prefix", "mixed", "pyramid", "release", "text"] | None = None
    sink_tokens: int = 0
    recent_tokens: int = 0
    recent_fraction: float = 0.0
    recent_most: int | None = None
    keeps_text: bool = False
    window: Literal["distance", "recent", "all", "least"] = "all"
    positions: Literal["true", "compressed"] = "true"
    packs: bool = False

    @property
    def floor_tokens(self) -> int:
        """Entries that every layer keeps at least (all it has read, where that is fewer)."""
        return max(1, self.sink_tokens + self.recent_tokens)

    @property
    def keeps_all(self) -> bool:
        """Whether the method never evicts, whatever the budget."""
        return self.scorer is None

    @property
    def waits(self) -> bool:
        """Whether the shares are known only when all layers have read the prompt, so that until then all is kept."""
        return self.allocator in ("release", "text")

    @property
    def is_guided(self) -> bool:
        """Whether a profile's look-ahead queries are of use."""
        return self.scorer == "guided"

    def recent_len(self, kept_len: int) -> int:
        """Newest entries that are kept whatever their importance, where a layer keeps `kept_len`."""
        share = int(self.recent_fraction * kept_len)
        return max(self.recent_tokens, share if self.recent_most is None else min(share, self.recent_most))

    def evictable(self, kept_len: int) -> range:
        """Kept entries that decoding may evict, the first one first; generated entries follow when these are gone.

        Args:
            kept_len: entries of the layer after its compaction.

        Returns:
            Indices into the kept entries, of which there is at least one: in text order; for `least` in the order of
            importance, highest first. For `distance` they begin with the release's deletion index: 25 before the
            end, or the middle where the layer is shorter than that.
        """
        if self.window == "least":
            return range(kept_len - 1, min(kept_len // 2, kept_len - 1) - 1, -1)
        if self.window == "distance":
            start = kept_len - DISTANCE if kept_len > DISTANCE else kept_len // 2
        elif self.window == "recent":
            start = kept_len - self.recent_len(kept_len)
        else:
            start = self.sink_tokens
        return range(max(0, min(start, kept_len - 1)), kept_len)


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
        Method(
            "snapkv",
            "attention of the last 64 queries per kv head, pooled, those 64 kept, equal layers (SnapKV)",
            scorer="window",
            per_head=True,
            allocator="uniform",
            recent_tokens=1,
            recent_fraction=0.5,
            recent_most=64,
            window="recent",
        ),
        Method(
            "pyramidkv",
            "as snapkv, lower layers keep more (PyramidKV)",
            scorer="window",
            per_head=True,
            allocator="pyramid",
            recent_tokens=1,
            recent_fraction=0.5,
            recent_most=64,
            window="recent",
        ),
        Method(
            "tgv",
            "text first, pictures by the attention of weighted text queries, which also weigh the layers (TGV-KV)",
            scorer="text",
            per_head=True,
            allocator="text",
            recent_tokens=1,
            keeps_text=True,
            window="least",
        ),
        Method(
            "prefixkv-release",
            "as PrefixKV's released code behaves, its positions and its deletion while decoding included",
            scorer="accumulated",
            allocator="release",
            sink_tokens=1,
            recent_tokens=1,
            window="distance",
            positions="compressed",
        ),
        Method(
            "guided",
            "what the model will look at while it answers, learnt from a profile; packed to 8, 4 or 2 bits",
            scorer="guided",
            per_head=True,
            allocator="mixed",
            recent_tokens=1,
            window="least",
            packs=True,
        ),
    )
}
"""All methods by name."""

DEFAULT_METHOD = "guided"


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
