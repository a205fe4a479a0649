"""Everything that touches transformers' changing surface: our attention function, its mask, and how it is chosen.

Attention itself is transformers' own SDPA. Ours adds one step: when a chunk's attention is done, the queries are handed
to whoever took in the chunk's keys, so that the layer is compacted before the next layer runs.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prefixkv.errors import PrefixKVError

NAME = "prefixkv"
"""The attention implementation's name in transformers."""

AfterAttention = Callable[[torch.Tensor, float], None]


@dataclass
class _HandOff(threading.local):
    """What the cache's update leaves for the attention call that follows it in the same layer and thread."""

    keys: torch.Tensor | None = None
    after: AfterAttention | None = None


_hand_off = _HandOff()


def hand_off(keys: torch.Tensor, after: AfterAttention | None) -> None:
    """Leave word for the attention call on exactly these keys.

    Args:
        keys: the tensor that the cache returns to the model.
        after: called with the queries (batch, query_heads, query_len, head_dim) and the scale once attention is done;
            None where nothing is left to do.
    """
    _hand_off.keys, _hand_off.after = keys, after


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention, the last query seeing all keys; then the hand-off.

    Args:
        module: the attention layer.
        query: (batch, query_heads, query_len, head_dim).
        key: (batch, kv_heads, key_len, head_dim), key_len >= query_len.
        value: same shape as the keys.
        attention_mask: None: masks are made here, since every layer has its own length.
        dropout: probability, 0 outside training.
        scaling: factor on the dot products; `head_dim ** -0.5` where None.
        **kwargs: passed on.

    Returns:
        (batch, query_len, query_heads, head_dim) and None.
    """
    after, expected = _hand_off.after, _hand_off.keys
    _hand_off.keys = _hand_off.after = None
    if expected is not key:
        after = None
        warnings.warn(
            "this forward pass does not use the compressed cache: pass `past_key_values=cache` to generate",
            stacklevel=2,
        )
    query_len, key_len = query.shape[2], key.shape[2]
    if attention_mask is None and 1 < query_len < key_len:
        seen = torch.ones(query_len, key_len, dtype=torch.bool, device=query.device)
        attention_mask = seen.tril(key_len - query_len)[None, None].expand(query.shape[0], 1, -1, -1)
    output = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if after is not None:
        after(query, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return output


def make_mask(
    batch_size: int, *args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> torch.Tensor | None:
    """No mask tensor: `attend` is causal by itself. Padding, which would need one, is refused."""
    if attention_mask is not None and attention_mask.ndim == 2 and not bool(attention_mask.all()):
        raise PrefixKVError("the prompts are padded, which is not supported: give one prompt, or several of one length")
    return None


@contextlib.contextmanager
def installed(model: PreTrainedModel) -> Iterator[None]:
    """Run the model's language part through `attend`; what was set before comes back, also after an exception.

    Args:
        model: a language or vision-language model of transformers.

    Raises:
        PrefixKVError: when the model does not let its attention be chosen.
    """
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, make_mask)
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    nested = config is not model.config
    model.set_attn_implementation({"text_config": NAME} if nested else NAME)
    if config._attn_implementation != NAME:
        raise PrefixKVError(f"{type(model).__name__} does not let its attention be chosen: it cannot be compressed")
    try:
        yield
    finally:
        _hand_off.keys = _hand_off.after = None
        model.set_attn_implementation({"text_config": before} if nested else before)
