"""Which families of models can be compressed: what is special about each, and why some are refused.

Knows nothing of torch or transformers: it reads attributes of a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.transformers_compat import LayersDifferError, setting, shares_keys


@dataclass(frozen=True)
class Family:
    """Models that share a configuration's `model_type`.

    Attributes:
        name: what people call it.
        model_types: `model_type` of the whole model.
        special: what its cache, positions or pictures have that LLaVA-1.5 has not; empty for nothing.
        example: a published model.
        alias: short name of the example, for `--model`.
    """

    name: str
    model_types: tuple[str, ...]
    special: str
    example: str
    alias: str


MULTI_AXIS = "positions of time, row and column"
WINDOWS = "window layers are left alone"

FAMILIES = (
    Family("LLaVA-1.5", ("llava",), "", "llava-hf/llava-1.5-7b-hf", "llava"),
    Family(
        "LLaVA-NeXT", ("llava_next",), "a picture is several tiles", "llava-hf/llava-v1.6-mistral-7b-hf", "llava-next"
    ),
    Family(
        "LLaVA-OneVision",
        ("llava_onevision",),
        "a picture is several tiles",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-onevision",
    ),
    Family("Qwen2-VL", ("qwen2_vl",), MULTI_AXIS, "Qwen/Qwen2-VL-7B-Instruct", "qwen2-vl"),
    Family("Qwen2.5-VL", ("qwen2_5_vl",), MULTI_AXIS, "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl"),
    Family(
        "Qwen3-VL", ("qwen3_vl",), f"{MULTI_AXIS}; normed queries and keys", "Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl"
    ),
    Family("InternVL", ("internvl",), "a picture is several tiles", "OpenGVLab/InternVL3-8B-hf", "internvl"),
    Family("Idefics3", ("idefics3",), "a picture is several tiles", "HuggingFaceM4/Idefics3-8B-Llama3", "idefics3"),
    Family("SmolVLM", ("smolvlm",), "a picture is several tiles", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm"),
    Family("Gemma 3", ("gemma3",), f"{WINDOWS}; a picture's tokens see each other", "google/gemma-3-4b-it", "gemma3"),
    Family(
        "PaliGemma", ("paligemma",), "the prompt's tokens see each other", "google/paligemma-3b-mix-224", "paligemma"
    ),
    Family(
        "Mistral 3", ("mistral3",), "pictures of any size", "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral3"
    ),
    Family("Pixtral", ("llava",), "pictures of any size", "mistral-community/pixtral-12b", "pixtral"),
    Family("GLM-4V", ("glm4v",), MULTI_AXIS, "zai-org/GLM-4.1V-9B-Thinking", "glm-4v"),
    Family("Aya Vision", ("aya_vision",), f"{WINDOWS}; tiles", "CohereLabs/aya-vision-8b", "aya-vision"),
    Family("Llama", ("llama",), "", "meta-llama/Llama-3.1-8B-Instruct", "llama"),
    Family("Qwen2", ("qwen2",), "", "Qwen/Qwen2.5-7B-Instruct", "qwen2"),
    Family("Qwen3", ("qwen3",), "normed queries and keys", "Qwen/Qwen3-8B", "qwen3"),
    Family("Mistral", ("mistral",), "", "mistralai/Mistral-7B-Instruct-v0.3", "mistral"),
    Family("SmolLM", ("smollm3",), "some layers without positions", "HuggingFaceTB/SmolLM3-3B", "smollm"),
    Family("Gemma 2", ("gemma2",), f"{WINDOWS}; capped attention", "google/gemma-2-9b-it", "gemma2"),
    Family("Gemma 3 (text)", ("gemma3_text",), WINDOWS, "google/gemma-3-1b-it", "gemma3-text"),
)
"""Every family that the tests run as a small model of its own kind. Others may work too; what cannot is refused."""

CROSS_ATTENTION = "its layers look at pictures through a second cache, of the picture, which is not compressed"
STATE = "it keeps a state of fixed size instead of a key and a value for every token"
LATENT = "it stores a joint latent vector for every token instead of keys and values of one size"

REFUSED_TYPES = {
    "mllama": CROSS_ATTENTION,
    "idefics": CROSS_ATTENTION,
    "florence2": CROSS_ATTENTION,
    "mamba": STATE,
    "mamba2": STATE,
    "falcon_mamba": STATE,
    "rwkv": STATE,
    "xlstm": STATE,
    "recurrent_gemma": STATE,
    "jamba": STATE,
    "bamba": STATE,
    "zamba": STATE,
    "zamba2": STATE,
    "nemotron_h": STATE,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
}
"""Models that cannot be compressed, by `model_type` of the whole or of its text part, with the reason."""

REFUSED_LAYERS = {
    "linear_attention": STATE,
    "conv": STATE,
    "mamba": STATE,
    "recurrent": STATE,
    "hybrid": STATE,
    "hybrid_sliding": STATE,
    "chunked_attention": "its layers attend within chunks, and what left a chunk is never read again",
}
"""Kinds of layer that cannot be compressed, with the reason."""

WINDOW_LAYER = "sliding_attention"
FULL_LAYER = "full_attention"


def layer_kinds(config: Any) -> tuple[str, ...]:
    """The kind of every layer of a model's text part: `full_attention` or `sliding_attention`.

    Args:
        config: of a language or vision-language model.

    Raises:
        PrefixKVError: the model cannot be compressed; says why.
    """
    text = config.get_text_config(decoder=True)
    if not isinstance(getattr(text, "model_type", None), str):
        raise _refusal(config, "its text part is no configuration of a model")
    for model_type in (config.model_type, text.model_type):
        if model_type in REFUSED_TYPES:
            raise _refusal(config, REFUSED_TYPES[model_type])
    if setting(config, "is_encoder_decoder", False):
        raise _refusal(config, CROSS_ATTENTION)
    try:
        kinds = _declared_kinds(config, text)
    except LayersDifferError as error:
        raise _refusal(config, f"{error}, and every layer has to store entries of one size") from None
    for kind in kinds:
        if kind in REFUSED_LAYERS:
            raise _refusal(config, REFUSED_LAYERS[kind])
        if kind not in (WINDOW_LAYER, FULL_LAYER):
            raise _refusal(config, f"it has layers of kind {kind[:80]!r}, which are not known")
    if FULL_LAYER not in kinds:
        raise _refusal(config, "all its layers attend to a sliding window, whose cache is already bounded")
    return kinds


MOST_LAYERS = 1024
"""No model has more; a file that says so is damaged."""


def _declared_kinds(config: Any, text: Any) -> tuple[str, ...]:
    """The kinds of layers as the text part's configuration has them, where all store keys and values of one size."""
    if not setting(text, "num_attention_heads"):
        raise _refusal(config, STATE)
    if setting(text, "kv_lora_rank"):
        raise _refusal(config, LATENT)
    if shares_keys(text):
        raise _refusal(config, "some of its layers read another layer's cache, so no layer has a share of its own")
    if setting(text, "global_head_dim") not in (None, setting(text, "head_dim")):
        raise _refusal(config, "its layers store keys of different sizes")
    setting(text, "num_key_value_heads")
    window = setting(text, "sliding_window") if setting(text, "use_sliding_window", True) else None
    declared = setting(text, "layer_types") or setting(text, "layers_block_type")
    layers = setting(text, "num_hidden_layers")
    if declared and not (isinstance(declared, (list, tuple)) and all(isinstance(kind, str) for kind in declared)):
        raise _refusal(config, "the kinds of its layers are no list of names")
    if not declared and type(layers) is not int:
        raise _refusal(config, "it names no number of layers")
    if type(layers) is int and not 0 < layers <= MOST_LAYERS:
        raise _refusal(config, f"it names more than {MOST_LAYERS} layers, or none")
    return tuple(declared or [WINDOW_LAYER if window else FULL_LAYER] * layers)


def _refusal(config: Any, reason: str) -> PrefixKVError:
    return PrefixKVError(
        f"{' '.join(str(config.model_type).split())[:80]} models cannot be compressed: {reason}; choose another model"
    )
