"""Attention on a compressed cache: the function and the mask that transformers calls while a cache is installed.

Attention itself is transformers' own SDPA. Ours adds one step: when a chunk's attention is done, the queries are handed
to whoever took in the chunk's keys, so that the layer is compacted before the next layer runs.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prefixkv.cache import hand_off
from prefixkv.cache.capped_attention import capped_attention
from prefixkv.cache.hand_off import Attend, HandOff
from prefixkv.errors import PrefixKVError
from prefixkv.kernels import row_lse
from prefixkv.kernels.scored_attention import scored_attention


@torch.compiler.disable
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
    """Attention, the last query seeing all keys; then the hand-off.

    Args:
        module: the attention layer.
        query: (batch, query_heads, query_len, head_dim).
        key: (batch, kv_heads, key_len, head_dim), key_len >= query_len.
        value: same shape as the keys.
        attention_mask: what `make_mask` returned: None for causal attention.
        dropout: probability, 0 outside training.
        scaling: factor on the dot products; `head_dim ** -0.5` where None.
        **kwargs: passed on; `softcap` and `s_aux` (sinks) are honoured.

    Returns:
        (batch, query_len, query_heads, head_dim) and None.
    """
    word = hand_off.take(key)
    if word is None:
        word = HandOff()
        warnings.warn(
            "this forward pass does not use the compressed cache: pass `**cache.argument` to generate",
            stacklevel=2,
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if word.rows is not None:
        one: Attend = partial(attend, module, dropout=dropout, scaling=scaling, **kwargs)
        if word.latents is not None:
            one, key, value = word.latents.attending(one), word.latents.keys, word.latents.values
        is_softmax = not dropout and kwargs.get("softcap") is None and kwargs.get("s_aux") is None
        return word.rows(one, query, key, value, attention_mask, scale if is_softmax else None), None
    if word.after is not None and _is_padding(attention_mask, query):
        raise PrefixKVError(
            "the prompt is padded, which a single prompt need not be: leave the padding away, or take the cache of "
            "`prefixkv.compress` for a batch"
        )
    mask = _visible(attention_mask, query, key.shape[2])
    softcap, sinks = kwargs.pop("softcap", None), kwargs.pop("s_aux", None)
    if softcap is None and sinks is None:
        output = None
        if word.may_round and mask is None and not dropout and getattr(module, "is_causal", True):
            output = scored_attention(query, key, value, scale, word.sums_all)
        if output is None:
            output = sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **kwargs)[0]
    else:
        output = capped_attention(query, key, value, mask, scale, softcap, sinks)
    if word.after is not None:
        word.after(query, scale, None if word.latents is None else key)
        row_lse.forget()
    return output, None


@torch.compiler.disable
def make_mask(
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> torch.Tensor | None:
    """The mask over all tokens read, evicted ones included; as little of it as says everything.

    Args:
        q_length: tokens of the chunk.
        kv_length: keys that the cache will return, were none evicted; more than the tokens read in a static cache.
        q_offset: tokens read before the chunk.
        attention_mask: (batch, tokens): 0 for padding.
        local_size: tokens of the window, for a window layer.
        allow_is_causal_skip: False where tokens see later ones.
        **kwargs: of transformers' own masks, passed on.

    Returns:
        None for causal attention; (batch, 1, 1, tokens), bool, where the only other thing is padding; else
        transformers' own (batch, 1, query_len, tokens): of a window layer, of tokens that see later ones, or of a
        static cache, whose buffer has places that nobody has written.
    """
    is_static = kv_length > q_offset + q_length
    if local_size is not None or not allow_is_causal_skip or is_static:
        return sdpa_mask(
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            attention_mask=attention_mask,
            local_size=local_size,
            allow_is_causal_skip=allow_is_causal_skip and not is_static,
            **kwargs,
        )
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask[:, None, None, :].bool()


def _is_padding(mask: torch.Tensor | None, query: torch.Tensor) -> bool:
    return mask is not None and mask.shape[2] == 1 < query.shape[2]


def _visible(mask: torch.Tensor | None, query: torch.Tensor, key_len: int) -> torch.Tensor | None:
    """The mask over the keys that are there: every stored entry is visible, of the chunk what the given mask says.

    Returns:
        None where causal attention by itself is right; else it broadcasts to (batch, 1, query_len, key_len).
    """
    query_len = query.shape[2]
    evicted = mask is not None and mask.shape[-1] > key_len
    if query_len == 1 and (mask is None or evicted):
        return None
    if mask is not None and evicted:
        stored = torch.full_like(mask[..., :1], mask.dtype == torch.bool).expand(*mask.shape[:-1], key_len - query_len)
        mask = torch.cat([stored, mask[..., -query_len:]], dim=-1)
    if mask is not None and (query_len == 1 or not _is_padding(mask, query)):
        return mask
    if mask is None and query_len == key_len:
        return None
    causal = torch.ones(query_len, key_len, dtype=torch.bool, device=query.device).tril(key_len - query_len)
    return causal.expand(query.shape[0], 1, -1, -1) if mask is None else causal & mask
