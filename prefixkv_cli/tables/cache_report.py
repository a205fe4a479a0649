"""The numbers behind every view of the cache: what it holds at one moment, and how fast the answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefixkv.cache.usage import CacheUsage
from prefixkv.policy.budget import format_bytes

if TYPE_CHECKING:
    from prefixkv.cache.prefix_cache import PrefixKVCache
    from prefixkv.chat.conversation import Conversation
    from prefixkv.chat.entry_kinds import EntryKinds


@dataclass(frozen=True)
class CacheReport:
    """One moment.

    Attributes:
        usage: what the cache holds.
        kinds: what it is, one per layer.
        budget: as the user gave it.
        allowed_bytes: what the budget allows for the tokens read so far; None where nothing is ever evicted.
        first_token_seconds: from the question to the first token; None before it.
        tokens_per_second: speed after the first token; None where there are too few to tell.
    """

    usage: CacheUsage
    kinds: Sequence[EntryKinds]
    budget: str
    allowed_bytes: int | None = None
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None

    @classmethod
    def of(
        cls,
        conversation: Conversation,
        first_token_seconds: float | None = None,
        tokens_per_second: float | None = None,
    ) -> CacheReport:
        """What a conversation's cache holds now.

        Args:
            conversation: may be in the middle of an answer.
            first_token_seconds: of the answer; the last one's where None.
            tokens_per_second: likewise.
        """
        from prefixkv.chat.entry_kinds import kept_kinds

        cache, answer = conversation.cache, conversation.last_answer
        if first_token_seconds is None and answer is not None:
            first_token_seconds, tokens_per_second = answer.prefill_seconds, answer.tokens_per_second
        usage = conversation.usage()
        kinds, allowed = kept_kinds(cache, conversation.reading), allowed_bytes(cache, usage)
        return cls(usage, kinds, cache.budget.text, allowed, first_token_seconds, tokens_per_second)

    def lines(self) -> list[str]:
        """The totals, each line short enough for a narrow terminal."""
        kept, bits, size = self.usage.words()
        allowed = "all" if self.allowed_bytes is None else format_bytes(self.allowed_bytes)
        lines = [f"{kept} · {bits}", f"{size} · budget {self.budget}: {allowed} allowed"]
        speed = []
        if self.first_token_seconds is not None:
            speed.append(f"first token {self.first_token_seconds:.2f} s")
        if self.tokens_per_second is not None:
            speed.append(f"{self.tokens_per_second:.1f} tokens/s")
        return [*lines, " · ".join(speed)] if speed else lines


def allowed_bytes(cache: PrefixKVCache, usage: CacheUsage) -> int | None:
    """What the budget allows for the tokens read so far; None where nothing is ever evicted.

    Args:
        cache: of a conversation.
        usage: what it holds.
    """
    if cache.keeps_all:
        return None
    if cache.budget.kind == "bytes":
        return int(cache.budget.amount)
    return cache.budget.room_bytes(cache.geometry, max(layer.seen_tokens for layer in usage.layers))
