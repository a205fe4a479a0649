"""What each decoder layer of a model keeps: entries, a window of them, a state, or nothing of its own.

Knows nothing of torch or transformers: it reads attributes of a configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefixkv.models.refused_types import CROSS_ATTENTION, ONLY_WINDOWS, REFUSED_KINDS, REFUSED_TYPES, STATE, refusal
from prefixkv.transformers_compat import setting

FULL = "full_attention"
WINDOW = "sliding_attention"
CHUNK = "chunked_attention"
LINEAR = "linear_attention"
HYBRID = "hybrid"
HYBRID_WINDOW = "hybrid_sliding"
NOTHING = "dummy"

KINDS = {
    FULL: FULL,
    "attention": FULL,
    WINDOW: WINDOW,
    CHUNK: CHUNK,
    LINEAR: LINEAR,
    "conv": LINEAR,
    "mamba": LINEAR,
    "recurrent": LINEAR,
    HYBRID: HYBRID,
    HYBRID_WINDOW: HYBRID_WINDOW,
    "moe": NOTHING,
    "mlp": NOTHING,
    NOTHING: NOTHING,
}
"""The kinds of layers by the names that configurations have for them."""
WITH_ENTRIES = {FULL, HYBRID}
"""Layers that keep a key and a value for every token: those that are compressed."""
WITH_WINDOW = {WINDOW, CHUNK, HYBRID_WINDOW}
"""Layers that keep the last entries only, and are left alone."""
WITH_STATE = {LINEAR, HYBRID, HYBRID_WINDOW}
"""Layers that keep a state of fixed size, which is left alone; some beside entries."""

MOST_LAYERS = 1024
"""No model has more; a file that says so is damaged."""


def layer_kinds(config: Any) -> tuple[str, ...]:
    """The kind of every layer of a model's text part, one of the values of `KINDS`.

    Args:
        config: of a language or vision-language model.

    Raises:
        PrefixKVError: the model cannot be compressed; says why.
    """
    text = config.get_text_config(decoder=True)
    if not isinstance(getattr(text, "model_type", None), str):
        raise refusal(config, "its text part is no configuration of a model")
    for model_type in (config.model_type, text.model_type):
        if model_type in REFUSED_TYPES:
            raise refusal(config, REFUSED_TYPES[model_type])
    if getattr(config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        raise refusal(config, CROSS_ATTENTION)
    named = _named_kinds(config, text)
    for kind in named:
        if kind in REFUSED_KINDS:
            raise refusal(config, REFUSED_KINDS[kind])
        if kind not in KINDS:
            raise refusal(config, f"it has layers of kind {kind[:80]!r}, which are not known")
    kinds = _without_readers([KINDS[kind] for kind in named], text)
    if not WITH_ENTRIES & set(kinds):
        raise refusal(config, ONLY_WINDOWS if WITH_WINDOW & set(kinds) else STATE)
    return tuple(kinds)


def _named_kinds(config: Any, text: Any) -> tuple[str, ...]:
    """The kinds of layers by the names that the text part's configuration has for them."""
    declared = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    layers = getattr(text, "num_hidden_layers", None)
    if declared and not (isinstance(declared, (list, tuple)) and all(isinstance(kind, str) for kind in declared)):
        raise refusal(config, "the kinds of its layers are no list of names")
    count = len(declared) if declared else layers
    if type(count) is not int:
        raise refusal(config, "it names no number of layers")
    if not 0 < count <= MOST_LAYERS:
        raise refusal(config, f"it names more than {MOST_LAYERS} layers, or none")
    if declared:
        return tuple(declared)
    if not setting(text, "num_attention_heads"):
        raise refusal(config, STATE)
    window = setting(text, "sliding_window") if setting(text, "use_sliding_window", True) else None
    chunk = setting(text, "attention_chunk_size")
    return (WINDOW if window else CHUNK if chunk else FULL,) * count


def _without_readers(kinds: Sequence[str], text: Any) -> list[str]:
    """Layers that read another layer's keys and values keep nothing of their own.

    Args:
        kinds: of all layers.
        text: configuration: `kv_sharing_modes` since transformers 5.23, `num_kv_shared_layers` before.
    """
    modes = getattr(text, "kv_sharing_modes", None)
    if modes:
        reads = [str(mode).startswith("reuse") for mode in modes]
    else:
        count = getattr(text, "num_kv_shared_layers", None) or 0
        reads = [place >= len(kinds) - count for place in range(len(kinds))]
    return [NOTHING if read else kind for kind, read in zip(kinds, reads, strict=True)]
