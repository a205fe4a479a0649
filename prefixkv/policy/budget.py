"""Budgets: what the user asks to keep, and the exact whole number of cache entries it means.

All rounding from fractions and bytes to entries happens here. Knows nothing of torch, layers' contents or methods.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from prefixkv.errors import BudgetTooSmallError, OptionError
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.entry_size import MARK_BYTES, PLACE_BYTES, EntrySize

UNIT_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
BUDGET_HELP = "a share such as 20% or 0.2, a size such as 512MiB or 4GB, or tokens such as 300tok"
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_PATTERN = re.compile(rf"{_NUMBER}\s*(%|tok(?:en)?s?|[kmgt]?i?b)?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """How much of the KV cache may be kept.

    Attributes:
        text: the budget as the user wrote it.
        kind: `fraction` of what a 16-bit cache of prompt and generated tokens takes, or a hard limit in `bytes`, of all
            that is allocated, or in `tokens` of a 16-bit cache (mean over the layers).
        amount: the share in (0, 1], the bytes or the tokens; exact.
    """

    text: str
    kind: Literal["fraction", "bytes", "tokens"]
    amount: Fraction

    @classmethod
    def parse(cls, value: str | float | Budget) -> Budget:
        """Read a budget.

        Args:
            value: `"20%"`, `"0.2"`, `0.2`, `"512MiB"`, `"4GB"`, `"300tok"` or a `Budget`.

        Raises:
            OptionError: when the text is no budget, or its amount is not allowed.
        """
        if isinstance(value, Budget):
            return value
        text = str(value).strip()
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise OptionError(f"budget {text!r} is not understood: give {BUDGET_HELP}")
        number, unit = Fraction(match[1]), (match[2] or "").upper()
        if unit in ("", "%"):
            share = number / 100 if unit else number
            if not 0 < share <= 1:
                raise OptionError(
                    f"budget {text!r} is outside (0%, 100%]: it is the share of the cache to keep; give {BUDGET_HELP}"
                )
            return cls(text, "fraction", share)
        kind: Literal["bytes", "tokens"] = "tokens" if unit.startswith("TOK") else "bytes"
        amount = number if kind == "tokens" else number * UNIT_BYTES[unit]
        if amount < 1:
            raise OptionError(f"budget {text!r} keeps nothing: give {BUDGET_HELP}")
        return cls(text, kind, amount)

    @property
    def is_hard_limit(self) -> bool:
        """Whether the budget is an absolute size, which the cache never exceeds however long the text grows."""
        return self.kind != "fraction"

    @property
    def is_whole(self) -> bool:
        """Whether everything may be kept."""
        return self.kind == "fraction" and self.amount == 1

    def room_bytes(self, geometry: KVGeometry, seen_tokens: int, batch: int = 1) -> int:
        """Bytes that the entries of all layers together may take for each batch row; rounded down, so never over.

        Args:
            geometry: the model's KV shape.
            seen_tokens: tokens read so far, prompt and generated.
            batch: rows that share a budget in bytes.

        Returns:
            A part of the bytes of a 16-bit cache for a fraction; a limit in tokens does not depend on `seen_tokens`,
            and one in bytes has to hold windows, states and what is noted of each token read, too.
        """
        if self.kind == "fraction":
            return int(self.amount * seen_tokens * geometry.counted_token_bytes)
        if self.kind == "tokens":
            return int(self.amount * geometry.counted_token_bytes)
        return max(0, int(self.amount / batch) - _beside_bytes(geometry, seen_tokens))

    def price(self, size: EntrySize) -> int:
        """Bytes that an entry takes of the budget: of a limit in bytes all that is allocated for it."""
        return size.allocated if self.kind == "bytes" else size.counted

    def entries(self, geometry: KVGeometry, seen_tokens: int, batch: int = 1, size: EntrySize | None = None) -> int:
        """Entries of one size that all layers together may hold for each batch row; there may be fewer to hold.

        Args:
            geometry: the model's KV shape.
            seen_tokens: tokens read so far, prompt and generated.
            batch: rows that share a budget in bytes.
            size: of an entry; in the model's own precision where None.
        """
        return self.room_bytes(geometry, seen_tokens, batch) // self.price(size or EntrySize.of(geometry))

    def check_floor(
        self,
        geometry: KVGeometry,
        floor_tokens: int,
        batch: int = 1,
        size: EntrySize | None = None,
        seen_tokens: int = 0,
    ) -> None:
        """Refuse a hard limit that cannot hold `floor_tokens` protected entries in every layer.

        A fraction is never refused: a layer keeps its protected entries even where the share is smaller.

        Args:
            geometry: the model's KV shape.
            floor_tokens: protected entries of a layer.
            batch: rows that share a budget in bytes.
            size: of an entry; in the model's own precision where None.
            seen_tokens: tokens read, or about to be.

        Raises:
            BudgetTooSmallError: says the smallest budget that works.
        """
        if not self.is_hard_limit:
            return
        needed = floor_tokens * geometry.layers * self.price(size or EntrySize.of(geometry))
        if self.room_bytes(geometry, seen_tokens, batch) < needed:
            smallest = (
                f"{-(-needed // geometry.counted_token_bytes)}tok"
                if self.kind == "tokens"
                else format_bytes((needed + _beside_bytes(geometry, seen_tokens)) * batch)
            )
            raise BudgetTooSmallError(
                f"budget {self.text!r} cannot hold the {floor_tokens} protected entries of each of {geometry.layers} "
                f"layers: give at least {smallest}"
            )


def _beside_bytes(geometry: KVGeometry, seen_tokens: int) -> int:
    """Most bytes of a row that are no entries."""
    return geometry.left_bytes + MARK_BYTES * seen_tokens + PLACE_BYTES


def format_bytes(count: float) -> str:
    """A size in binary units with up to two decimals, rounded up in the last so that it can be given as a budget."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            hundredths = -(-int(count) * 100 // size)
            return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{int(count)} B"
