"""Which prompts are answered together: as many as fit the memory, of like length. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget


@dataclass(frozen=True)
class Room:
    """What the caches of one batch may take.

    Attributes:
        geometry: shape of the model's cache.
        budget: what each row may keep.
        keeps_all: whether the method evicts nothing.
        memory_bytes: for all rows together.
        most_rows: in one batch.
        new_tokens: longest answer.
    """

    geometry: KVGeometry
    budget: Budget
    keeps_all: bool
    memory_bytes: int
    most_rows: int
    new_tokens: int

    def batch_bytes(self, prompt_tokens: int, rows: int) -> int:
        """Most bytes that a batch takes: its compressed caches, padded to the longest, and one whole layer beside them.

        Args:
            prompt_tokens: of the longest row.
            rows: in the batch.
        """
        tokens = prompt_tokens + self.new_tokens
        kept = tokens * self.geometry.layers if self.keeps_all else self.budget.entries(self.geometry, tokens)
        kept = min(kept, tokens * self.geometry.layers)
        row = kept * self.geometry.entry_bytes + self.geometry.window_bytes
        return rows * (row + prompt_tokens * self.geometry.entry_bytes)

    def batches(self, prompt_tokens: Sequence[int]) -> list[list[int]]:
        """Put rows together.

        Args:
            prompt_tokens: of each row.

        Returns:
            Indices of the rows of each batch, the shortest rows first. A row that does not fit alone is in none.
        """
        batches: list[list[int]] = []
        for index in sorted(range(len(prompt_tokens)), key=lambda index: (prompt_tokens[index], index)):
            tokens = prompt_tokens[index]
            if self.batch_bytes(tokens, 1) > self.memory_bytes:
                continue
            rows = len(batches[-1]) + 1 if batches else 0
            if batches and rows <= self.most_rows and self.batch_bytes(tokens, rows) <= self.memory_bytes:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches
