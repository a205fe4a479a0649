"""Bytes of the state of fixed size that a layer keeps for one row, read off a configuration.

Knows nothing of torch or transformers.
"""

from __future__ import annotations

from typing import Any

from prefixkv.transformers_compat import setting

RECURRENT_BYTES = 4
"""A recurrence is kept in float32, whatever the model runs in."""


def state_bytes(text: Any, dtype_bytes: int) -> int | None:
    """What one layer's state takes.

    Args:
        text: configuration of the text part.
        dtype_bytes: of one number in the model's precision.

    Returns:
        None where the configuration is of a kind that is not known here.
    """
    for known in (_delta_rule, _kimi_delta, _convolution, _mamba, _mamba_1, _mixed_queries):
        found = known(text, dtype_bytes)
        if found is not None:
            return found
    return None


def _delta_rule(text: Any, dtype_bytes: int) -> int | None:
    """Gated delta rule (Qwen3-Next, Qwen3.5, OLMo hybrid): the last inputs of a convolution, and a matrix per head."""
    heads, key_heads = setting(text, "linear_num_value_heads"), setting(text, "linear_num_key_heads")
    if not heads or not key_heads:
        return None
    key_dim, value_dim = setting(text, "linear_key_head_dim"), setting(text, "linear_value_head_dim")
    width = 2 * key_heads * key_dim + heads * value_dim
    inputs: int = width * setting(text, "linear_conv_kernel_dim") * dtype_bytes
    recurrent: int = heads * key_dim * value_dim * RECURRENT_BYTES
    return inputs + recurrent


def _kimi_delta(text: Any, dtype_bytes: int) -> int | None:
    """Kimi's delta attention: the last inputs of three convolutions, and a matrix per head."""
    heads, width = setting(text, "linear_num_heads"), setting(text, "linear_head_dim")
    if not heads or not width:
        return None
    inputs: int = 3 * heads * width * setting(text, "linear_conv_kernel_dim") * dtype_bytes
    recurrent: int = heads * width * width * RECURRENT_BYTES
    return inputs + recurrent


def _convolution(text: Any, dtype_bytes: int) -> int | None:
    """Short convolutions (LFM2): the last inputs and nothing else."""
    length = setting(text, "conv_L_cache")
    return setting(text, "hidden_size") * length * dtype_bytes if length else None


def _mamba(text: Any, dtype_bytes: int) -> int | None:
    """Mamba 2 (Nemotron-H, Bamba, Granite hybrid, Falcon-H1): the last inputs, and a state per head."""
    heads = setting(text, "mamba_num_heads") or setting(text, "mamba_n_heads")
    width = setting(text, "mamba_head_dim") or setting(text, "mamba_d_head")
    state = setting(text, "ssm_state_size") or setting(text, "mamba_d_state")
    kernel = setting(text, "conv_kernel") or setting(text, "mamba_d_conv")
    groups = setting(text, "n_groups") or setting(text, "mamba_n_groups") or setting(text, "mamba_ngroups")
    if not all(type(number) is int for number in (heads, width, state, kernel, groups)):
        return None
    inputs: int = (heads * width + 2 * groups * state) * kernel * dtype_bytes
    recurrent: int = heads * width * state * RECURRENT_BYTES
    return inputs + recurrent


def _mamba_1(text: Any, dtype_bytes: int) -> int | None:
    """Mamba 1 (Jamba): the last inputs, and a state for each of the numbers in one of them."""
    names = ("mamba_expand", "hidden_size", "mamba_d_state", "mamba_d_conv")
    expand, width, state, kernel = (setting(text, name) for name in names)
    if not all(type(number) is int for number in (expand, width, state, kernel)):
        return None
    inputs: int = expand * width * kernel * dtype_bytes
    recurrent: int = expand * width * state * RECURRENT_BYTES
    return inputs + recurrent


def _mixed_queries(text: Any, dtype_bytes: int) -> int | None:
    """Queries and keys mixed with those of the tokens before (Zaya): the last of both, and half of the last values."""
    names = ("cca_time0", "cca_time1", "num_attention_heads", "num_key_value_heads", "head_dim")
    first, second, heads, kv_heads, width = (setting(text, name) for name in names)
    if not all(type(number) is int for number in (first, second, heads, kv_heads, width)):
        return None
    inputs: int = (heads + kv_heads) * width * (first + second - 2)
    values: int = kv_heads * width // 2
    return (inputs + values) * dtype_bytes
