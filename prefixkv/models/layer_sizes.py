"""How many numbers a layer stores for every token, read off a configuration. Knows nothing of torch or transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from prefixkv.models.refused_types import refusal
from prefixkv.transformers_compat import layer_config, setting

TWICE_IN_WINDOWS = {"mimo_v2_flash"}
"""Types whose windows have twice the key/value heads of other layers, as the model knows and no configuration says."""


class EntryShape(NamedTuple):
    """One entry of a layer: the key and the value of one token.

    Attributes:
        kv_heads: key/value heads.
        key_dim: numbers in one key of one head.
        value_dim: numbers in one value of one head.
    """

    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def numbers(self) -> int:
        """Numbers of the whole entry."""
        return self.kv_heads * (self.key_dim + self.value_dim)


def entry_shape(config: Any, text: Any, places: Sequence[int], is_window: bool = False) -> EntryShape:
    """The shape of an entry in layers that have to be alike.

    Args:
        config: of the whole model.
        text: of its text part.
        places: of the layers, among all decoder layers.
        is_window: whether they attend to a window, for which some configurations have values of their own.

    Raises:
        PrefixKVError: the layers differ, or the configuration does not say.
    """
    shapes = {_shape_of(layer_config(text, place), is_window) for place in places}
    if len(shapes) > 1:
        raise refusal(config, "its compressed layers store entries of different sizes")
    (shape,) = shapes
    if shape is None:
        raise refusal(config, "its configuration does not say how large a key is")
    return shape


def _shape_of(layer: Any, is_window: bool) -> EntryShape | None:
    def size(name: str) -> int | None:
        own = setting(layer, f"swa_{name}") if is_window else None
        return own or setting(layer, name)

    heads = size("num_attention_heads")
    if type(heads) is not int:
        return None
    if setting(layer, "kv_lora_rank"):
        # What is stored is the joint latent, in the place of a key, and the rotated part of all heads' keys.
        return EntryShape(1, setting(layer, "kv_lora_rank"), setting(layer, "qk_rope_head_dim"))
    width = size("hidden_size")
    key_dim = size("head_dim") or (width // heads if type(width) is int else 0)
    kv_heads = size("num_key_value_heads") or heads
    if is_window and setting(layer, "model_type") in TWICE_IN_WINDOWS:
        kv_heads *= 2
    return EntryShape(kv_heads, key_dim, size("v_head_dim") or key_dim) if key_dim else None
