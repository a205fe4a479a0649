"""A layer's entries in two precisions: its buffer, and beside it the most important ones in more bits."""

from __future__ import annotations

import torch

from prefixkv.cache.stored_entries import StoredEntries
from prefixkv.kernels.dispatch import gather
from prefixkv.kernels.gathering import Move

Run = tuple[torch.Tensor, torch.Tensor, int | None]
"""Keys and values, (1, kv_heads, entries, head_dim) or packed, and the bits in which they are; None for whole ones."""


class FineRun(StoredEntries):
    """The most important entries of a layer, which are only read."""

    def get_seq_length(self) -> int:
        """Its entries."""
        return self.kept_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All are seen."""
        return self.kept_tokens + query_length, 0


class EntriesInRuns(StoredEntries):
    """A buffer of entries, and a fine run or none.

    The fine run is written when a chunk is compacted and only read from then on: slots, eviction and growth are the
    buffer's alone. With the next chunk both become one again, in the model's own precision, and are scored together.

    Attributes:
        fine: the entries of the fine run, those that stay longest first; without any where there is none.
        fine_wanted: entries that the next compaction puts into the fine run, of all that stay.
    """

    def __init__(self, head_dim: int, dtype: torch.dtype, value_dim: int | None = None) -> None:
        """Make an empty layer.

        Args:
            head_dim: elements of a key.
            dtype: in which the model computes.
            value_dim: elements of a value; those of a key where None.
        """
        self.fine, self.fine_wanted = FineRun(head_dim, dtype, value_dim), 0
        super().__init__(head_dim, dtype, value_dim)
        self.reset()

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        self.free()

    def free(self) -> None:
        """Free the buffers of both."""
        super().free()
        self.fine.free()
        self.fine_wanted = 0

    def follow(self, device: torch.device) -> None:
        """Bring both to where the layer computes."""
        super().follow(device)
        self.fine.follow(device)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """What is held of both."""
        return [*super().tensors, *self.fine.tensors]

    @property
    def counts(self) -> tuple[int, int]:
        """Entries of the buffer, and of the fine run."""
        return self.kept_tokens, self.fine.kept_tokens

    @property
    def stored_tokens(self) -> int:
        """Entries of both."""
        return self.kept_tokens + self.fine.kept_tokens

    @property
    def runs(self) -> list[Run]:
        """What is stored, as it is stored: of the fine run if there is one, then of the buffer."""
        runs = [self.fine, self] if self.fine.kept_tokens else [self]
        return [(*run.stored, run.bits) for run in runs]

    def bytes_of(self, kept_tokens: int) -> int:
        """Bytes of the fine run's entries and so many of the buffer's."""
        return self.entry_bytes * kept_tokens + self.fine.entry_bytes * self.fine.kept_tokens

    @property
    def kept_positions(self) -> torch.Tensor:
        """Original positions, (1, heads, stored_tokens), int64: the fine run's, then the buffer's in its order."""
        own = super().kept_positions
        return torch.cat([self.fine.kept_positions, own], dim=-1) if self.fine.kept_tokens else own

    @property
    def entries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (1, kv_heads, stored_tokens, head_dim), in that order; views where nothing is packed."""
        return joined(self.fine.entries, super().entries) if self.fine.kept_tokens else super().entries

    def unite(self) -> None:
        """Make both one, in the model's own precision, with a chunk ahead that is scored with all of them."""
        keys, values = self.entries
        positions, importance = self.positions, self.importance
        assert positions is not None
        assert importance is not None
        notes = [positions[..., : self.kept_tokens], importance[..., : self.kept_tokens]]
        if self.fine.positions is not None and self.fine.importance is not None:
            fine_notes = (self.fine.positions, self.fine.importance)
            notes = [torch.cat(each, dim=-1) for each in zip(fine_notes, notes, strict=True)]
        kept = self.stored_tokens
        self.fine.free()
        self.keys, self.values, self.kept_tokens = keys, values, kept
        self.positions, self.importance = notes

    def in_buffer(self, count: int) -> int:
        """How many of so many entries are the buffer's where the fine run is written: one at least, which may go."""
        return max(1, count - self.fine.kept_tokens)

    def shorten_fine(self, count: int) -> None:
        """Have the fine run leave the buffer one of so many entries, where these are fewer than it has."""
        if self.fine.kept_tokens and self.fine.kept_tokens >= count:
            self.fine.fill(gather([self.fine.move(None, None, count - 1)], None)[0])

    def write_fine(
        self, rows: tuple[torch.Tensor, torch.Tensor], indices: torch.Tensor | None, count: int, bits: int
    ) -> tuple[torch.Tensor, int]:
        """Put the most important ones of the entries that stay into the fine run.

        Args:
            rows: keys and values, (1, kv_heads, entries, head_dim), in the model's own precision.
            indices: (1, heads, count), int64: which entries stay, in the order of storage; None for the first ones.
            count: how many.
            bits: in which the fine run is stored, one of `PAIRS`.

        Returns:
            Which of them are left for the buffer, (1, heads, fewer), int64, in the same order, and how many.
        """
        assert self.positions is not None
        assert self.importance is not None
        fine = min(self.fine_wanted, count - 1)
        if self.ranks is not None:
            best = self.ranks.argsort(dim=-1)
            finest, others = best[..., :fine], best[..., fine:count].sort(dim=-1).values
            self.ranks = self.ranks - fine
        else:
            if indices is None:
                indices = torch.arange(count, device=self.device).expand(*self.importance.shape[:2], -1)
            best = self.importance.gather(-1, indices).topk(fine, dim=-1).indices
            is_fine = torch.zeros_like(indices, dtype=torch.bool).scatter_(-1, best, True)
            finest, others = (indices[part].view(*indices.shape[:2], -1) for part in (is_fine, ~is_fine))
        if fine:
            move = Move(*rows, (self.positions, self.importance), finest, fine)
            self.fine.fill(gather([move], bits)[0])
        return others, count - fine


def joined(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of two runs behind each other, (1, kv_heads, entries of both, head_dim) each."""
    return torch.cat([first[0], second[0]], dim=2), torch.cat([first[1], second[1]], dim=2)
