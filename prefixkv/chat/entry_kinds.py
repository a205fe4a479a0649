"""How many of the kept entries are of a picture, of text, or written by the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.chat.reading import GENERATED, PICTURE, TEXT, Reading


@dataclass(frozen=True)
class EntryKinds:
    """Entries of one layer, by kind; where its kv heads choose apart, means over the heads.

    Attributes:
        picture: of pictures.
        text: of the prompt's text.
        generated: of what the model wrote.
    """

    picture: int
    text: int
    generated: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.picture + self.text + self.generated


def kept_kinds(cache: PrefixKVCache, reading: Reading) -> tuple[EntryKinds, ...]:
    """What every layer keeps.

    One transfer from the device for all layers, so that a live view may ask often.

    Args:
        cache: one row.
        reading: what it has read; tokens that it does not know yet count as generated.
    """
    layers = len(cache.layers)
    positions = [cache.kept_positions(layer)[0] for layer in range(layers)]
    sizes = [stored.numel() for stored in positions]
    if not any(sizes):
        return (EntryKinds(0, 0, 0),) * layers
    flat = torch.cat([stored.flatten() for stored in positions])
    kinds = torch.full((max(cache.seen_tokens, len(reading.kinds)),), GENERATED, dtype=torch.int64)
    kinds[: len(reading.kinds)] = torch.frombuffer(reading.kinds, dtype=torch.uint8)
    owner = torch.repeat_interleave(torch.arange(layers), torch.tensor(sizes))
    counts = torch.bincount(owner * 3 + kinds[flat.cpu()], minlength=3 * layers).view(layers, 3).tolist()
    return tuple(_mean(row, stored.shape[0], stored.shape[1]) for row, stored in zip(counts, positions, strict=True))


def _mean(counts: list[int], heads: int, kept: int) -> EntryKinds:
    """Means over the heads, rounded so that they add up to the layer's entries."""
    picture = round(counts[PICTURE] / heads)
    text = min(round(counts[TEXT] / heads), kept - picture)
    return EntryKinds(picture, text, kept - picture - text)
