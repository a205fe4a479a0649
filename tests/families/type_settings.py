"""What a small configuration of some types has to say beside what is made small in all of them."""

from __future__ import annotations

from typing import Any

ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
OUTSIDE = 1000
"""A token of pictures that is in no text of the tests."""
CODES = 8
"""Codes of a picture and of a sound, where each is a token of the vocabulary."""

TYPE_SETTINGS: dict[str, dict[str, Any]] = {
    # The class's own heads do not divide the width.
    "aya_vision": {"vision_config": {"num_attention_heads": 16}},
    "apertus1p5": {
        "image_token_offset": 80,
        "audio_token_offset": 80 + CODES,
        "vision_config": {"codebook_size": CODES},
        "audio_config": {"codebook_size": CODES},
    },
    # A file names the tokens of a picture, the class does not.
    "chameleon": {"vocabulary_map": {"<image>": 3, "IMGIMGAZ": 1}},
    "emu3": {"vocabulary_map": {"<image>": 3, "<|extra_200|>": 2, "<|visual token 000000|>": 1}},
    "cohere_compass": {
        "text_config": {"rope_parameters": {"full_attention": ROPE | {"mrope_section": [4, 2, 2]}}},
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE | {"mrope_section": [4, 2, 2]}}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    # One layer of eight has attention in the class, and in published models.
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "nemotron": {"num_key_value_heads": 2},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}},
    # Rows and columns take turns, and time comes last.
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": ROPE | {"mrope_section": [2, 2, 4]}}},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl": {"text_config": {"head_dim": 16}},
    # Files name the token that begins a picture, the classes do not.
    "qwen2_5_omni_thinker": {"vision_start_token_id": OUTSIDE},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": OUTSIDE},
    # A small tower of timm's, whose size the class leaves to the file.
    "perception_lm": {"vision_config": {"architecture": "test_vit", "model_args": {"embed_dim": 64}}},
    "step3p7": {
        "text_config": {"sliding_window": 24, "layer_types": ["full_attention", "sliding_attention"] * 2},
    },
    # The class has states alone, published models a few layers of attention between them.
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    # Published models had a window before 0.2 only, the class has one still.
    "mistral": {"sliding_window": None},
    "granite4_vision": {
        "downsample_rate": "4/8",
        "deepstack_layer_map": [[0, 0], [1, 1]],
        "spatial_target_layers": [0, 1, 2, 3],
    },
}
"""By type; a section is put into the configuration's own, value by value."""


def put_in(values: dict[str, Any], further: dict[str, Any]) -> None:
    """Put further values into a configuration, section by section.

    Args:
        values: of a configuration, changed here.
        further: values by name; a dictionary is a section where the configuration has a section of that name.
    """
    for name, value in further.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict) and name.endswith("_config"):
            put_in(values[name], value)
        else:
            values[name] = value
