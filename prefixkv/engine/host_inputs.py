"""Reading what lies on the host: what is to be known of token ids is read off them there, where nobody waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.generation.forward import read_prompt
from prefixkv.kernels.sending import sent
from prefixkv.policy.text_marks import mark_chunk
from prefixkv.transformers_compat import picture_token_ids


def read_from_host(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], cache: PrefixKVCache) -> torch.Tensor:
    """Read a prompt, or a part of one.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        inputs: the model's inputs, `input_ids` (1, new_len) among them; floats come into the model's precision.
        cache: takes them in.

    Returns:
        Logits of the token behind them, (1, vocabulary), float32.

    Raises:
        PrefixKVError: the model does not take the pictures.
    """
    moved = {
        name: sent(value, model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    if pictures := picture_token_ids(model.config):
        mark_chunk(cache, inputs["input_ids"], pictures, model.device)
    return read_prompt(model, moved, cache)
