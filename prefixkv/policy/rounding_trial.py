"""What a prompt loses by few bits: tried on its own first layers, where no profile says it."""

from __future__ import annotations

import torch

from prefixkv.kernels.dispatch import pack
from prefixkv.kernels.packing import unpack
from prefixkv.methods.evidence import Evidence
from prefixkv.policy.precision import (
    BEARABLE_LOSS,
    COARSE_BITS,
    FEWEST_BITS,
    FINE_KEY_BITS,
    TYPICAL_EVICTION,
    UNEVEN_BITS,
    Losses,
)

TRIED_LAYERS = 2
"""Layers of the prompt that are tried. In the first one alone models differ too little (demo 0.06, SmolLM2 0.13 in 2
bits), in the second three times (0.14 and 0.46), as in those that follow."""
QUERIES = 64
"""Queries whose attention is compared."""
LOST_NATS = 0.3
"""Nats a token that are taken to be lost for each by which attention diverges: SmolLM2 loses 0.5, the demo less."""
VALUES_PART = 1 / 8
"""Of what keys and values in the fewest bits lose, the part that is taken to be the values': the demo's
where only the prompt is rounded (0.0005 nats in `UNEVEN_BITS` less 0.00006 in `COARSE_BITS`, of 0.0033). Of what
`COARSE_BITS` lose SmolLM2's values make a ninth."""


@torch.no_grad()
def divergence(evidence: Evidence, bits: int) -> torch.Tensor:
    """How far the attention to rounded keys diverges from that to the keys as they are.

    Of latent attention, which stores neither, the keys that are made of what is stored are rounded in its stead.

    Args:
        evidence: of one row's layer.
        bits: in which the keys are rounded.

    Returns:
        Mean KL(exact || rounded) over a sample of the prompt's queries, seeing all entries, and over the heads: one
        number in nats, float32, on the device.
    """
    keys = evidence.keys
    queries = evidence.sampled
    queries = queries[:, :, :: -(-queries.shape[2] // QUERIES)].unflatten(1, (keys.shape[1], -1)).float()
    exact, rounded = (
        (queries @ each.float().unsqueeze(2).transpose(-1, -2) * evidence.scale).log_softmax(dim=-1)
        for each in (keys, unpack(pack(keys, bits), bits, keys.dtype))
    )
    return (exact.exp() * (exact - rounded)).sum(dim=-1).mean()


class RoundingTrial:
    """Tries few bits on the first layers that read a chunk.

    Attributes:
        is_done: whether enough layers were tried.
    """

    def __init__(self, layers: int) -> None:
        """Begin.

        Args:
            layers: to try; the fewest bits are not allowed after fewer than `TRIED_LAYERS`.
        """
        self._layers, self._tried = layers, list[dict[int, torch.Tensor]]()

    @property
    def is_done(self) -> bool:
        """See the attribute."""
        return len(self._tried) == self._layers

    def add(self, evidence: Evidence) -> None:
        """Try a layer that has attended."""
        bits = [COARSE_BITS, FEWEST_BITS][: 2 if self._layers >= TRIED_LAYERS else 1]
        possible = [each for each in bits if evidence.keys.shape[-1] * each % 8 == 0]
        self._tried.append({each: divergence(evidence, each) for each in possible})

    def losses(self) -> Losses:
        """What stands for a profile's losses, without bits that lose more than is bearable. Waits for the device.

        Keys in more bits than values lose what the keys lose in theirs, which is nothing in 8, and a part of what both
        lose in those of the values.
        """
        diverged = {bits: sum(float(layer[bits]) for layer in self._tried) / self._layers for bits in self._tried[0]}
        lost = {bits: LOST_NATS * nats for bits, nats in diverged.items()}
        if COARSE_BITS in lost:
            lost[FINE_KEY_BITS] = VALUES_PART * lost[COARSE_BITS]
        if {COARSE_BITS, FEWEST_BITS} <= lost.keys():
            lost[UNEVEN_BITS] = lost[COARSE_BITS] + VALUES_PART * lost[FEWEST_BITS]
        return Losses({bits: nats for bits, nats in lost.items() if nats <= BEARABLE_LOSS}, TYPICAL_EVICTION)
