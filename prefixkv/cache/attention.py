"""How a model's language part comes to run through our attention, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedModel

from prefixkv.cache import installations
from prefixkv.cache.captured_blocks import captured_blocks
from prefixkv.cache.compressed_attention import attend, make_mask
from prefixkv.cache.fused_layers import fused_layers
from prefixkv.cache.latents import expanded_latents
from prefixkv.cache.passes import watched_passes
from prefixkv.cache.positions import tracked
from prefixkv.errors import PrefixKVError
from prefixkv.models.completed_passes import completed_passes
from prefixkv.policy.text_marks import marked
from prefixkv.transformers_compat import chosen_attention, tensor_parallel_size

NAME = "prefixkv"
"""The attention implementation's name in transformers."""


@contextlib.contextmanager
def installed(model: PreTrainedModel) -> Iterator[None]:
    """Run the model's language part through `attend`; what was set before comes back, also after an exception.

    Args:
        model: a language or vision-language model of transformers.

    Raises:
        PrefixKVError: when the model does not let its attention be chosen, or is divided by tensor parallelism.
    """
    if (processes := tensor_parallel_size(model)) > 1:
        raise PrefixKVError(
            f"the model's heads are divided among {processes} processes (tp_plan), each of which would keep other "
            'entries: load it with device_map="auto", which gives each GPU whole layers'
        )
    with installations.shared(model, _changed):
        yield


@contextlib.contextmanager
def _changed(model: PreTrainedModel) -> Iterator[None]:
    with (
        chosen_attention(model, NAME, attend, make_mask),
        tracked(model),
        marked(model),
        watched_passes(model),
        fused_layers(model, attend),
        captured_blocks(model),
        expanded_latents(model),
        completed_passes(model),
    ):
        yield
