"""What training minimises and measures: the dense labels of the tower, and the answers of the whole model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.demo.labels import ATTRIBUTES, BACKGROUND, CONTEXTUAL
from tools.demo.packing import ALL_KINDS, CONTEXT_KIND, NOT_AN_ANSWER

_CONTEXTUAL_WEIGHT = 0.5
_CLASSES = max(2, *ATTRIBUTES.values())
KIND_NAMES = (*ALL_KINDS, "context")


class DenseHeads(nn.Module):
    """Linear heads that read the attributes of the object under a patch off the tower's output.

    All heads have as many classes as the widest, so that one loss call serves them all.

    Args:
        width: Width of the tower.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, (1 + len(ATTRIBUTES)) * _CLASSES)
        weights = [1.0] + [_CONTEXTUAL_WEIGHT if name in CONTEXTUAL else 1.0 for name in ATTRIBUTES]
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, patches: Tensor, patch_objects: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Compare with the dense labels.

        Args:
            patches: float32 (batch, 576, width).
            patch_objects: uint8 (batch, 576), index of the object or `BACKGROUND`.
            attributes: uint8 (batch, 12, len(ATTRIBUTES)).

        Returns:
            The loss, and the accuracy of object-or-not followed by every attribute, float32 (1 + len(ATTRIBUTES),).
        """
        covered = patch_objects != BACKGROUND
        objects = torch.where(covered, patch_objects, 0).long()
        labels = attributes.long().gather(1, objects[:, :, None].expand(-1, -1, attributes.shape[-1]))
        labels = labels.masked_fill(~covered[:, :, None], -100)
        labels = torch.cat((covered.long()[:, :, None], labels), dim=-1).flatten(0, 1)
        logits = self.head(self.norm(patches)).view(*labels.shape, _CLASSES)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        known = (labels >= 0).sum(0).clamp(min=1)
        loss = (losses.sum(0) / known * self.weights).sum()
        return loss, ((logits.argmax(-1) == labels).sum(0) / known).detach()


def answer_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Weighted cross entropy of the answer tokens.

    Args:
        logits: float32 (batch, text length, vocabulary), entry t predicting token t.
        batch: `tokens` and `weights` of the packed texts.
    """
    losses = F.cross_entropy(logits.flatten(0, 1), batch["tokens"].long().flatten(), reduction="none")
    weights = batch["weights"].float().flatten()
    return (losses * weights).sum() / weights.sum()


def exact_matches(logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Count the answers that greedy decoding would give exactly.

    Greedy decoding gives an answer exactly when each of its tokens is the most likely one after the tokens before.

    Args:
        logits: float32 (batch, text length, vocabulary), entry t predicting token t.
        batch: `tokens`, `answers` and `kinds` of the packed texts.

    Returns:
        Exact answers and answers, each float32 (len(KIND_NAMES),).
    """
    wrong = (logits.argmax(-1) != batch["tokens"].long()).float()
    answers = batch["answers"].long()
    is_wrong = torch.zeros(len(answers), 256, device=logits.device).scatter_reduce(1, answers, wrong, "amax")
    kind_of = torch.full((len(answers), 256), NOT_AN_ANSWER, device=logits.device)
    kind_of = kind_of.scatter(1, answers, batch["kinds"].long())
    kind_of[:, 0] = NOT_AN_ANSWER
    counted = kind_of <= CONTEXT_KIND
    kinds = kind_of[counted]
    total = torch.zeros(len(KIND_NAMES), device=logits.device).index_add(0, kinds, torch.ones_like(kinds).float())
    exact = torch.zeros(len(KIND_NAMES), device=logits.device).index_add(0, kinds, 1 - is_wrong[counted])
    return exact, total
