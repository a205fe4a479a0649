"""What transformers' configuration classes fill in where a config.json says nothing, for the families that are listed.

So a model's cache is known from its config.json alone, without importing transformers (seconds and hundreds of MB).
The tests compare every line with the installed transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT_TYPES = {
    "llava": "llama",
    "llava_next": "llama",
    "llava_onevision": "qwen2",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "internvl": "qwen2",
    "idefics3": "llama",
    "smolvlm": "llama",
    "gemma3": "gemma3_text",
    "paligemma": "gemma",
    "mistral3": "mistral",
    "glm4v": "glm4v_text",
    "aya_vision": "cohere2",
}
"""The `model_type` of a model's text part, where its file names that of the whole model only."""

FLAT_TYPES = {"qwen2_vl", "qwen2_5_vl"}
"""Models of pictures whose published config.json has the text part's values beside its own instead of inside."""

DECODER_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "max_position_embeddings": 2048},
    "mistral": {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "hidden_size": 4096,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen2_vl_text": {
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "hidden_size": 8192,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 80,
    },
    "qwen2_5_vl_text": {
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "hidden_size": 8192,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 80,
    },
    "qwen3": {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_size": 4096,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3_vl_text": {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_size": 4096,
        "max_position_embeddings": 128000,
    },
    "gemma": {
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_size": 3072,
        "max_position_embeddings": 8192,
    },
    "gemma2": {
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_size": 2304,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "sliding_window_pattern": 2,
    },
    "gemma3_text": {
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_size": 2304,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    "glm4v_text": {
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "hidden_size": 4096,
        "max_position_embeddings": 32768,
    },
    "cohere2": {
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "hidden_size": 8192,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    "smollm3": {
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "hidden_size": 2048,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
    },
}
"""By the text part's `model_type`. Without `num_key_value_heads` there are as many as query heads, without `head_dim`
it is `hidden_size // num_attention_heads`."""


def layer_types(values: Mapping[str, Any]) -> list[str] | None:
    """The kinds of layers that transformers works out where a file does not list them.

    Args:
        values: of the text part, defaults included.

    Returns:
        One name for each layer; None where all are of one kind, which `sliding_window` alone decides.
    """
    count = values.get("num_hidden_layers", 0)
    if (pattern := values.get("sliding_window_pattern")) is not None:
        return ["sliding_attention" if (place + 1) % pattern else "full_attention" for place in range(count)]
    if values.get("use_sliding_window") and values.get("sliding_window") and "max_window_layers" in values:
        first = values["max_window_layers"]
        return ["sliding_attention" if place >= first else "full_attention" for place in range(count)]
    return None
