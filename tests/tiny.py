"""Small random models: they check equality and memory, never quality."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN = 199


def _decoder(layers: int, query_heads: int, kv_heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=200,
        hidden_size=16 * query_heads,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=query_heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=16384,
        eos_token_id=198,
    )


def sharpen(model: torch.nn.Module) -> None:
    """Larger weights, so that attention is far from flat, and the more so the deeper the layer."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            parameter.data.mul_(4)
        if "q_proj" in name and "vision" not in name:
            depth = int(name.split("layers.")[1].split(".")[0])
            parameter.data.mul_((0.5, 2.0, 0.2, 4.0, 1.0)[depth % 5])


def llava(layers: int = 4, query_heads: int = 4, kv_heads: int = 2, seed: int = 0) -> LlavaForConditionalGeneration:
    """A LLaVA with grouped heads; a picture of 28 x 28 pixels is 4 tokens."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=32,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=_decoder(layers, query_heads, kv_heads),
        image_token_index=IMAGE_TOKEN,
    )
    model = LlavaForConditionalGeneration(config).eval()
    sharpen(model)
    model.generation_config.eos_token_id = 198
    return model


def llama(layers: int = 2, query_heads: int = 4, kv_heads: int = 2, seed: int = 0) -> LlamaForCausalLM:
    """A language model without images."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_decoder(layers, query_heads, kv_heads)).eval()
    sharpen(model)
    return model


def prompt(length: int = 60, seed: int = 1) -> dict[str, Any]:
    """Inputs of one picture and random text."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 190, (1, length), generator=generator)
    ids[0, 1:5] = IMAGE_TOKEN
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 28, 28, generator=generator)}


def text(length: int, seed: int = 2, batch: int = 1) -> torch.Tensor:
    """Random token ids, (batch, length)."""
    return torch.randint(0, 190, (batch, length), generator=torch.Generator().manual_seed(seed))
