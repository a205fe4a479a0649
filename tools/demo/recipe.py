"""What one training run of the demo model does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What decides a training run.

    Attributes:
        seed: Of the initial weights, the scenes and their order.
        minutes: Wall-clock time of the whole training, compilation included.
        tower_share: Share of the time in which only the tower learns.
        batch: Scenes a step.
        text_tokens: Packed text tokens a scene.
        tower_peak: Peak learning rate of the tower while it learns alone.
        peak: Peak learning rate of the decoder and the projector.
        joint_tower_peak: Peak learning rate of the tower while the whole model learns.
        warm_up: Steps of rising learning rate when the whole model begins to learn.
        dense_weight: Weight of the dense labels while the whole model learns.
        workers: Processes that draw scenes.
        capacity: Scenes kept on the device.
        flex: Use flex attention on a GPU; else attention with a dense mask.
        documents: Share of documents among the pictures; the others are scenes.
        tiny: Train the tiny configuration.
    """

    seed: int = 0
    minutes: float = 14.0
    tower_share: float = 0.14
    batch: int = 64
    text_tokens: int = 443
    tower_peak: float = 1e-3
    peak: float = 1e-3
    joint_tower_peak: float = 3e-4
    warm_up: int = 400
    dense_weight: float = 0.1
    workers: int = 15
    capacity: int = 24576
    flex: bool = True
    documents: float = 0.8
    tiny: bool = False
