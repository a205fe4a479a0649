"""Models of well-known shapes with random weights: speed and memory need no download.

A shape that has a vision tower is built with it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from prefixkv.errors import DeviceMemoryError, OptionError, PrefixKVError
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.loading import find_device
from prefixkv.policy.look_ahead import QUERIES, LookAhead
from prefixkv.policy.precision import COARSE_BITS, Losses
from prefixkv.policy.rotary import Rotation

_LLAVA = {"vocab_size": 32064, "max_position_embeddings": 65536, "rms_norm_eps": 1e-5}
SHAPES: dict[str, tuple[type[PreTrainedModel], type[Any], dict[str, Any]]] = {
    "llava-1.5-7b": (
        LlamaForCausalLM,
        LlamaConfig,
        _LLAVA | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    ),
    "llava-1.5-13b": (
        LlamaForCausalLM,
        LlamaConfig,
        _LLAVA | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    ),
    "qwen2-vl-7b": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 65536,
        },
    ),
    "small": (
        LlamaForCausalLM,
        LlamaConfig,
        _LLAVA
        | {
            "hidden_size": 256,
            "intermediate_size": 688,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
        },
    ),
}
"""By the names of `--shape`, from the models' published configurations; `small` is for a try on any machine."""
TOWERS: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
"""Vision towers by shape: CLIP ViT-L/14 at 336 pixels, of which LLaVA-1.5 takes the last layer but one."""
TOWERS["llava-1.5-13b"] = TOWERS["llava-1.5-7b"]
IMAGE_TOKEN = 32000
"""Stands for each patch of a picture in LLaVA-1.5's prompts."""


def random_model(shape: str, device: torch.device, dtype: torch.dtype, layers: int | None = None) -> PreTrainedModel:
    """Build a model with random weights: a decoder, and the vision tower if the shape has one.

    Args:
        shape: a name in `SHAPES`.
        device: where it is built.
        dtype: of its weights.
        layers: instead of the shape's own number.

    Raises:
        OptionError: the shape is not known.
        DeviceMemoryError: the weights do not fit.
    """
    if shape not in SHAPES:
        raise OptionError(f"shape {shape!r} is not known: choose {', '.join(SHAPES)}")
    kind, config_kind, numbers = SHAPES[shape]
    config = config_kind(**numbers, use_cache=True)
    if layers is not None:
        config.num_hidden_layers = layers
    if shape in TOWERS:
        tower = CLIPVisionConfig(**TOWERS[shape])
        config = LlavaConfig(vision_config=tower, text_config=config, image_token_index=IMAGE_TOKEN)
        kind = LlavaForConditionalGeneration
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = kind(config)
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(f"the weights of {shape!r} do not fit {device}: choose a smaller shape") from error
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    return model.eval()


def random_look_ahead(model: PreTrainedModel, geometry: KVGeometry) -> LookAhead | None:
    """Random queries, as many as a profile keeps: what they cost does not depend on what they ask.

    Entries may be packed in 4 bits, as with the profile of a model that loses nothing by it.

    Args:
        model: on its device.
        geometry: shape of its cache.

    Returns:
        None where it is not known how the model rotates its queries.
    """
    config = model.config.get_text_config(decoder=True)
    generator = torch.Generator().manual_seed(2)
    shape = config.num_attention_heads, QUERIES, geometry.head_dim
    try:
        rotation = Rotation(model)
    except PrefixKVError:
        return None
    dtype = getattr(torch, geometry.dtype)
    queries = [torch.randn(shape, generator=generator).to(model.device, dtype) for _ in range(geometry.layers)]
    return LookAhead(queries, torch.arange(QUERIES, device=model.device), rotation, Losses({COARSE_BITS: 0.0}))


def build_shape(shape: str, device: str, dtype: str) -> tuple[PreTrainedModel, KVGeometry]:
    """A model of a shape by the names that the user gives.

    Args:
        shape: a name in `SHAPES`.
        device: `auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (bfloat16 on a GPU, float32 on the CPU), or a dtype's name.

    Returns:
        The model and the shape of its cache.

    Raises:
        OptionError: the shape is not known.
        PrefixKVError: this machine has no such device.
        DeviceMemoryError: the weights do not fit.
    """
    if shape not in SHAPES:
        raise OptionError(f"shape {shape!r} is not known: choose {', '.join(SHAPES)}")
    where = find_device(device)
    if dtype == "auto":
        dtype = "float32" if where.type == "cpu" else "bfloat16"
    model = random_model(shape, where, getattr(torch, dtype))
    return model, KVGeometry.of(model.config, dtype)
