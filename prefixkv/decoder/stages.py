"""Where a step passes from one device to the next: runs of consecutive layers that lie on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from prefixkv.transformers_compat import decoder_of


@dataclass(frozen=True)
class Stage:
    """What one device computes of a step before another goes on.

    Attributes:
        device: which one.
        layers: of the decoder, in order; none where the embedding or the head is alone on its device.
        embeds: whether it begins with token ids; others begin with hidden states, (rows, hidden).
        answers: whether it ends with logits; others end with hidden states.
    """

    device: torch.device
    layers: range
    embeds: bool
    answers: bool


def stages_of(places: Sequence[torch.device]) -> list[Stage]:
    """Divide a decoder among devices.

    Args:
        places: where the embedding is, each layer in order, and the head.

    Returns:
        At least one stage; two that follow each other are on different devices.
    """
    layers, found, start = len(places) - 2, list[Stage](), 0
    for device, run in groupby(places):
        end = start + len(list(run))
        # The first place is the embedding's, so that layers are counted from one less.
        own = range(max(0, start - 1), min(layers, end - 1))
        found.append(Stage(device, own, start == 0, end == len(places)))
        start = end
    return found


def layer_devices(model: Any) -> list[torch.device]:
    """Where the decoder layers of a model are, in order; nothing of one whose layers are not to be found."""
    layers = getattr(decoder_of(model), "layers", ())
    return [parameter.device for layer in layers if (parameter := next(layer.parameters(), None)) is not None]
