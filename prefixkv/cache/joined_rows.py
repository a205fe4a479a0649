"""The entries of several rows in one padded buffer, so that all of them attend in one call while decoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.cache.layer import CompressedLayer

GROWTH = 32
"""Room for new entries, as one part in so many of the longest row: few copies, little that is not used."""


class JoinedRows:
    """One layer's rows in one buffer; each row's layer holds a view of its own part and writes there.

    Rows are joined anew when one has outgrown its part. Padding the shorter rows costs memory: under a hard limit only
    rows of equal size are joined; and only rows that are stored in the same number of bits.
    """

    def __init__(self, is_hard_limit: bool) -> None:
        """Nothing is joined yet.

        Args:
            is_hard_limit: whether the buffers may not be larger than the rows' own.
        """
        self._is_hard_limit = is_hard_limit
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def clear(self) -> None:
        """Let go of the buffer, which the rows then own alone."""
        self._keys = self._values = None

    def join(self, layers: Sequence[CompressedLayer]) -> bool:
        """See to it that all rows are in the buffer.

        Args:
            layers: this layer of every row, each with at least one entry.

        Returns:
            Whether they are; otherwise each row keeps its own buffers.
        """
        if self._keys is not None and all(_is_part(layer.keys, self._keys) for layer in layers):
            return True
        capacities = [layer.keys.shape[2] for layer in layers if layer.keys is not None]
        if len({layer.bits for layer in layers}) > 1 or (self._is_hard_limit and len(set(capacities)) > 1):
            return False
        longest = max(layer.kept_tokens for layer in layers)
        capacity = capacities[0] if self._is_hard_limit else longest + longest // GROWTH + 1
        self._keys = self._values = None
        for name in ("keys", "values"):
            parts = [getattr(layer, name) for layer in layers]
            joined = parts[0].new_zeros(len(parts), parts[0].shape[1], capacity, parts[0].shape[3])
            for index, layer in enumerate(layers):
                joined[index, :, : layer.kept_tokens] = parts[index][0, :, : layer.kept_tokens]
                setattr(layer, name, joined[index : index + 1])
            setattr(self, f"_{name}", joined)
        for layer in layers:
            for name in ("positions", "importance"):
                old = getattr(layer, name)
                new = old.new_zeros(*old.shape[:2], capacity)
                new[..., : layer.kept_tokens] = old[..., : layer.kept_tokens]
                setattr(layer, name, new)
        return True

    def view(self, layers: Sequence[CompressedLayer]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What the rows attend to.

        Args:
            layers: this layer of every row, joined.

        Returns:
            Keys and values as they are stored, (batch, kv_heads, longest row's entries, head_dim), and the mask,
            (batch, 1, 1, entries), bool; None where all rows are equally long.
        """
        assert self._keys is not None
        assert self._values is not None
        kept = [layer.kept_tokens for layer in layers]
        longest = max(kept)
        keys, values = self._keys[:, :, :longest], self._values[:, :, :longest]
        if min(kept) == longest:
            return keys, values, None
        places = torch.arange(longest, device=keys.device)
        return keys, values, (places < torch.tensor(kept, device=keys.device)[:, None])[:, None, None, :]


def _is_part(part: torch.Tensor | None, whole: torch.Tensor) -> bool:
    return part is not None and part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
