"""Linear heads that read characters and their places off the tower's output; they are trained with it and not kept."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tools.demo.reading_labels import CLASSES, LABELS, UNKNOWN


class ReadingHeads(nn.Module):
    """One head a label, all with as many classes, so that one loss call serves them all.

    Args:
        width: Width of the tower.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, (1 + len(LABELS)) * CLASSES)

    def forward(self, patches: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compare with the dense labels.

        Args:
            patches: float32 (batch, 576, width).
            labels: uint8 (batch, 576, 1 + len(LABELS)), `UNKNOWN` where there is nothing to tell.

        Returns:
            The loss, and the accuracy of each label, float32 (1 + len(LABELS),), the first being character-or-not.
        """
        wanted = labels.flatten(0, 1).long()
        known = wanted != UNKNOWN
        wanted = wanted.masked_fill(~known, -100)
        logits = self.head(self.norm(patches)).view(*wanted.shape, CLASSES)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
        counts = known.sum(0).clamp(min=1)
        right = ((logits.argmax(-1) == wanted) & known).sum(0) / counts
        return (losses.sum(0) / counts).sum(), right.detach()


def describe(right: Tensor) -> str:
    """Accuracies in one line."""
    names = ("covered", *LABELS)
    return " ".join(f"{name} {value:.3f}" for name, value in zip(names, right.tolist(), strict=True))
