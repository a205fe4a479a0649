"""Measure a model's layer profile: run calibration samples and stream the importance of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from prefixkv import __version__, attention
from prefixkv.calibration import Sample
from prefixkv.errors import PrefixKVError
from prefixkv.importance import SCORERS
from prefixkv.models import LoadedModel
from prefixkv.profile import LayerProfile, average_curve
from prefixkv.prompts import Prompt, Turn
from prefixkv.selection import cumulative_importance

SCORER = "accumulated"


class _Recorder(DynamicCache):
    """A full cache that scores every layer's prompt when the layer has attended.

    Attributes:
        curves: for each layer read so far the cumulative importance of its ranked entries.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.curves: list[list[float]] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store as usual; the first chunk is scored after its attention."""
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        attention.hand_off(keys, partial(self._score, keys) if len(self.curves) == layer_idx else None)
        return keys, values

    def _score(self, keys: torch.Tensor, queries: torch.Tensor, scale: float) -> None:
        importance = SCORERS[SCORER](queries, keys, scale).mean(dim=1, keepdim=True)
        self.curves.append(cumulative_importance(importance).tolist())


def measure(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    source: str,
    answer_tokens: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> LayerProfile:
    """Run the samples and average each layer's cumulative importance.

    Args:
        loaded: the model.
        samples: prompts with or without a picture.
        source: what they are, in words.
        answer_tokens: length to which the model answers every sample.
        progress: called with the number of samples done.

    Raises:
        PrefixKVError: no samples, a model that reads no images, or attention that is not a number.
    """
    if not samples:
        raise PrefixKVError("there are no samples to measure: give a folder or a data file with some")
    model: Any = loaded.model
    curves: list[list[list[float]]] = []
    facts = []
    for done, sample in enumerate(samples, start=1):
        if sample.image is not None and not loaded.takes_images:
            raise PrefixKVError(f"model {loaded.id!r} reads no images: give prompts without")
        images = () if sample.image is None else (sample.image,)
        prompt = Prompt(loaded.processor, [Turn(sample.prompt, images)])
        inputs = loaded.on_device(prompt.inputs)
        recorder = _Recorder(model.config)
        with attention.installed(model), torch.no_grad():
            out = model.generate(**inputs, past_key_values=recorder, max_new_tokens=answer_tokens, do_sample=False)
        curves.append(recorder.curves)
        facts.append(
            {
                "image_sha256": sample.image_sha256,
                "prompt_tokens": prompt.tokens,
                "answer_tokens": out.shape[1] - prompt.tokens,
            }
        )
        progress(done)
    layers = tuple(average_curve(layer) for layer in zip(*curves, strict=True))
    return LayerProfile(loaded.identity, SCORER, source, tuple(facts), layers, f"prefixkv {__version__}")
