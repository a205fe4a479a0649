"""The numbers behind every view of the cache: what it holds at one moment, and how fast the answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefixkv.cache.usage import CacheUsage
from prefixkv.policy.budget import format_bytes

if TYPE_CHECKING:
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
        allowed = None
        if not cache.keeps_all:
            seen = max(layer.seen_tokens for layer in usage.layers)
            is_size = cache.budget.kind == "bytes"
            allowed = int(cache.budget.amount) if is_size else cache.budget.room_bytes(cache.geometry, seen)
        kinds = kept_kinds(cache, conversation.reading)
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
