"""One small random model for each family, built from its own config: grouped heads, odd sizes, the real processor.

Every family is a function that returns a `Tiny`. What the function leaves out is the family's default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from tests.families.pixtral_processor import PixtralProcessor
from tests.families.tiny_tokenizer import END, TEMPLATE, SpecialTokens, tiny_tokenizer

HEADS = {"num_attention_heads": 6, "num_key_value_heads": 3}
SIZES = {"hidden_size": 120, "intermediate_size": 72, "num_hidden_layers": 4, "max_position_embeddings": 8192}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2} | {
    "num_attention_heads": 2,
    "patch_size": 4,
}


@dataclass(frozen=True)
class Tiny:
    """A model that is ready to answer.

    Attributes:
        model: random weights, in evaluation mode, float32.
        processor: the family's own; a bare tokenizer for a language model.
        pictures: two pictures of different sizes; none for a language model.
        window_layers: layers whose attention slides.
        prompt_sees_itself: whether every token of a prompt sees the whole prompt.
        new_tokens: of each answer in the tests.
    """

    model: PreTrainedModel
    processor: Any
    pictures: tuple[Image.Image, ...] = ()
    window_layers: tuple[int, ...] = ()
    prompt_sees_itself: bool = False
    new_tokens: int = 24


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture of random colours."""
    pixels = torch.randint(0, 255, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


PICTURES = (picture(50, 30, 0), picture(28, 44, 1))


def _text(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """Settings of a text model that all families share."""
    return (
        SIZES
        | HEADS
        | {
            "vocab_size": len(tokenizer),
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        }
        | changes
    )


def _sharpen(model: torch.nn.Module) -> None:
    """Larger weights, so that attention is far from flat, and differs from layer to layer; no answer ever ends."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name and "lm_head" not in name:
            parameter.data.mul_(4)
        if "embed_tokens" in name:
            # What a token is counts beside what it attends to, so that answers do not repeat one word.
            parameter.data.mul_(50)
        if "q_proj" in name and "layers." in name and "vision" not in name:
            depth = int(name.split("layers.")[1].split(".")[0])
            parameter.data.mul_((0.5, 2.0, 0.2, 4.0, 1.0)[depth % 5])


def _build(settings: dict[str, Any], processor: Any, tokenizer: Any, seed: int, **facts: Any) -> Tiny:
    model_type = settings.pop("model_type")
    return of_config(AutoConfig.for_model(model_type, **settings), processor, tokenizer, seed, **facts)


def of_config(config: Any, processor: Any, tokenizer: Any, seed: int, **facts: Any) -> Tiny:
    """A random model of a configuration, which answers in words and never ends.

    Args:
        config: of a small model.
        processor: the family's own, or its tokenizer.
        tokenizer: its tokenizer.
        seed: of the weights.
        facts: of the `Tiny`.
    """
    torch.manual_seed(seed)
    kind = AutoModelForCausalLM if processor is tokenizer else AutoModelForImageTextToText
    model = kind.from_config(config).eval()
    _sharpen(model)
    special = torch.tensor(sorted({*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}))
    head = torch.nn.Linear(model.get_output_embeddings().in_features, len(tokenizer))
    torch.nn.init.normal_(head.weight)
    torch.nn.init.zeros_(head.bias)
    # A head of its own, whose logits for special tokens are never the highest: no end, no stray picture token.
    head.bias.data[special] = -1e4
    model.set_output_embeddings(head)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    pictures = () if processor is tokenizer else PICTURES
    return Tiny(model, processor, **{"pictures": pictures, **facts})


def without_videos(kind: type) -> type:
    """The processor, content without a video processor: those need torchvision, which the project does not."""
    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda self, name, part: type(part)})


def _language(model_type: str, seed: int, **changes: Any) -> Tiny:
    tokenizer = tiny_tokenizer({})
    return _build({"model_type": model_type} | _text(tokenizer, **changes), tokenizer, tokenizer, seed)


def llama(seed: int = 0) -> Tiny:
    return _language("llama", seed)


def qwen2(seed: int = 0) -> Tiny:
    return _language("qwen2", seed)


def qwen3(seed: int = 0) -> Tiny:
    return _language("qwen3", seed, head_dim=28)


def mistral(seed: int = 0) -> Tiny:
    return _language("mistral", seed, head_dim=20, sliding_window=None)


def smollm3(seed: int = 0) -> Tiny:
    return _language("smollm3", seed)


def gemma2(seed: int = 0) -> Tiny:
    tiny = _language("gemma2", seed, head_dim=20, query_pre_attn_scalar=20, sliding_window=24, num_hidden_layers=6)
    return Tiny(tiny.model, tiny.processor, window_layers=(0, 2, 4))


def gemma3_text(seed: int = 0) -> Tiny:
    tiny = _language(
        "gemma3_text",
        seed,
        head_dim=28,
        query_pre_attn_scalar=28,
        sliding_window=24,
        num_hidden_layers=6,
        sliding_window_pattern=3,
    )
    return Tiny(tiny.model, tiny.processor, window_layers=(0, 1, 3, 4))


def llava(seed: int = 0) -> Tiny:
    tokenizer = tiny_tokenizer({"image_token": "<image>"})
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.format(picture="<image>"),
    )
    settings = {
        "model_type": "llava",
        "vision_config": _clip(28, 14),
        "text_config": {"model_type": "llama"} | _text(tokenizer),
        "image_token_index": tokenizer.image_token_id,
    }
    return _build(settings, processor, tokenizer, seed)


def _clip(image_size: int, patch_size: int) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
        "projection_dim": 32,
    }


def llava_next(seed: int = 0) -> Tiny:
    tokenizer = tiny_tokenizer({"image_token": "<image>"})
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.format(picture="<image>"),
    )
    settings = {
        "model_type": "llava_next",
        "vision_config": _clip(28, 14),
        "text_config": {"model_type": "mistral", "sliding_window": None, "head_dim": 20} | _text(tokenizer),
        "image_token_index": tokenizer.image_token_id,
        "image_grid_pinpoints": pinpoints,
    }
    return _build(settings, processor, tokenizer, seed)


def llava_onevision(seed: int = 0) -> Tiny:
    tokenizer = tiny_tokenizer({"image_token": "<image>", "video_token": "<video>"})
    pinpoints = [[12, 24], [24, 12], [24, 24]]
    processor = without_videos(transformers.LlavaOnevisionProcessor)(
        transformers.LlavaOnevisionImageProcessor(size={"height": 12, "width": 12}, image_grid_pinpoints=pinpoints),
        tokenizer,
        None,
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE.format(picture="<image>"),
    )
    settings = {
        "model_type": "llava_onevision",
        "vision_config": SIGLIP | {"image_size": 12, "vision_use_head": False},
        "text_config": {"model_type": "qwen2"} | _text(tokenizer),
        "image_token_index": tokenizer.image_token_id,
        "video_token_index": tokenizer.video_token_id,
        "image_grid_pinpoints": pinpoints,
    }
    return _build(settings, processor, tokenizer, seed)


def qwen_tokenizer() -> Any:
    """A tokenizer with the marks of Qwen's pictures."""
    return tiny_tokenizer(
        {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        }
    )


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of these marks, as a configuration names them."""
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    return {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in names}


QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
_MROPE = {"rope_type": "default", "mrope_section": [4, 3, 3], "rope_theta": 10000.0}


def qwen_images(patch_size: int) -> Any:
    """Qwen's image processor, for small pictures."""
    return transformers.Qwen2VLImageProcessor(
        size={"shortest_edge": 16 * patch_size**2, "longest_edge": 48 * patch_size**2}, patch_size=patch_size
    )


def qwen2_vl(seed: int = 0) -> Tiny:
    tokenizer = qwen_tokenizer()
    template = TEMPLATE.format(picture=QWEN_PICTURE)
    processor = without_videos(transformers.Qwen2VLProcessor)(qwen_images(4), tokenizer, None, chat_template=template)
    settings = {
        "model_type": "qwen2_vl",
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 120, "num_heads": 2, "patch_size": 4},
        "text_config": _text(tokenizer, rope_parameters=_MROPE),
    } | qwen_ids(tokenizer)
    return _build(settings, processor, tokenizer, seed)


def qwen2_5_vl(seed: int = 0) -> Tiny:
    tokenizer = qwen_tokenizer()
    template = TEMPLATE.format(picture=QWEN_PICTURE)
    processor = without_videos(transformers.Qwen2_5_VLProcessor)(
        qwen_images(4), tokenizer, None, chat_template=template
    )
    settings = {
        "model_type": "qwen2_5_vl",
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 40,
            "out_hidden_size": 120,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        "text_config": _text(tokenizer, rope_parameters=_MROPE),
    } | qwen_ids(tokenizer)
    return _build(settings, processor, tokenizer, seed)


def qwen3_vl(seed: int = 0) -> Tiny:
    tokenizer = qwen_tokenizer()
    template = TEMPLATE.format(picture=QWEN_PICTURE)
    processor = without_videos(transformers.Qwen3VLProcessor)(qwen_images(4), tokenizer, None, chat_template=template)
    settings = {
        "model_type": "qwen3_vl",
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 40,
            "out_hidden_size": 120,
            "num_heads": 2,
            "patch_size": 4,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        "text_config": _text(
            tokenizer,
            head_dim=20,
            rope_parameters={"rope_type": "default", "mrope_section": [4, 3, 3], "rope_theta": 1e4},
        ),
    } | qwen_ids(tokenizer)
    return _build(settings, processor, tokenizer, seed)


def internvl(seed: int = 0) -> Tiny:
    tokenizer = tiny_tokenizer(
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    )
    processor = without_videos(transformers.InternVLProcessor)(
        transformers.GotOcr2ImageProcessor(size={"height": 24, "width": 24}, crop_to_patches=True, max_patches=3),
        tokenizer,
        None,
        image_seq_length=9,
        chat_template=TEMPLATE.format(picture="<IMG_CONTEXT>"),
    )
    settings = {
        "model_type": "internvl",
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [24, 24],
            "patch_size": [4, 4],
        },
        "text_config": {"model_type": "qwen2"} | _text(tokenizer),
        "image_token_id": tokenizer.context_image_token_id,
        "image_seq_length": 9,
    }
    return _build(settings, processor, tokenizer, seed)


def _idefics(tokenizer: Any, model_type: str, text_type: str) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 24,
            "patch_size": 4,
        },
        "text_config": {"model_type": text_type} | _text(tokenizer),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
    }


def _idefics_model(model_type: str, seed: int) -> Tiny:
    cells = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = tiny_tokenizer(
        {"fake": "<fake_token_around_image>", "image_token": "<image>", "ends": "<end_of_utterance>"},
        more=["<global-img>", *cells],
    )
    processor = transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24}),
        tokenizer,
        image_seq_len=9,
        chat_template=TEMPLATE.format(picture="<image>"),
    )
    return _build(_idefics(tokenizer, model_type, "llama"), processor, tokenizer, seed)


def idefics3(seed: int = 0) -> Tiny:
    return _idefics_model("idefics3", seed)


def smolvlm(seed: int = 0) -> Tiny:
    """With Idefics3's processor, which reads pictures alike: its own needs a library that spells numbers."""
    return _idefics_model("smolvlm", seed)


def gemma3(seed: int = 0) -> Tiny:
    tokenizer = tiny_tokenizer(
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    )
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessor(size={"height": 24, "width": 24}),
        tokenizer,
        image_seq_length=9,
        chat_template=TEMPLATE.format(picture="<start_of_image>"),
    )
    settings = {
        "model_type": "gemma3",
        "vision_config": SIGLIP | {"image_size": 24, "vision_use_head": False},
        "text_config": _text(
            tokenizer,
            head_dim=28,
            query_pre_attn_scalar=28,
            sliding_window=24,
            num_hidden_layers=6,
            sliding_window_pattern=3,
        ),
        "mm_tokens_per_image": 9,
        "boi_token_index": tokenizer.boi_token_id,
        "eoi_token_index": tokenizer.eoi_token_id,
        "image_token_index": tokenizer.image_token_id,
    }
    return _build(settings, processor, tokenizer, seed, window_layers=(0, 1, 3, 4))


def paligemma(seed: int = 0) -> Tiny:
    tokenizer = tiny_tokenizer({"image_token": "<image>"}, begins="<bos>")
    # As published: the processor puts its pictures before whatever text there is.
    tokenizer.chat_template = None
    images = transformers.SiglipImageProcessor(size={"height": 12, "width": 12})
    images.image_seq_length = 9
    processor = transformers.PaliGemmaProcessor(images, tokenizer)
    settings = {
        "model_type": "paligemma",
        "vision_config": SIGLIP | {"image_size": 12, "vision_use_head": False},
        "text_config": {"model_type": "gemma", "head_dim": 28} | _text(tokenizer),
        "projection_dim": 120,
        "hidden_size": 120,
        "image_token_index": tokenizer.image_token_id,
    }
    return _build(settings, processor, tokenizer, seed, pictures=PICTURES[:1], prompt_sees_itself=True)


def _pixtral(tokenizer: Any, spatial_merge_size: int) -> Any:
    return PixtralProcessor(tokenizer, 4, spatial_merge_size, TEMPLATE.format(picture="[IMG]"))


_PIXTRAL_VISION = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 4,
}


def _pixtral_tokenizer() -> Any:
    return tiny_tokenizer({"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"})


def mistral3(seed: int = 0) -> Tiny:
    tokenizer = _pixtral_tokenizer()
    settings = {
        "model_type": "mistral3",
        "vision_config": dict(_PIXTRAL_VISION),
        "text_config": {"model_type": "mistral", "sliding_window": None, "head_dim": 28} | _text(tokenizer),
        "image_token_index": tokenizer.image_token_id,
        "spatial_merge_size": 2,
    }
    return _build(settings, _pixtral(tokenizer, 2), tokenizer, seed)


def pixtral(seed: int = 0) -> Tiny:
    """Pixtral as it is published for transformers: a LLaVA around its vision tower."""
    tokenizer = _pixtral_tokenizer()
    settings = {
        "model_type": "llava",
        "vision_config": dict(_PIXTRAL_VISION),
        "text_config": {"model_type": "mistral", "sliding_window": None, "head_dim": 28} | _text(tokenizer),
        "image_token_index": tokenizer.image_token_id,
        "vision_feature_select_strategy": "full",
        "vision_feature_layer": -1,
    }
    return _build(settings, _pixtral(tokenizer, 1), tokenizer, seed)


def glm4v(seed: int = 0) -> Tiny:
    tokens: SpecialTokens = {"image_token": "<|image|>", "video_token": "<|video|>"}
    marks = {f"{kind}_{end}": f"<|{word}_of_{kind}|>" for kind in ("image", "video") for end, word in _ENDS}
    tokenizer = tiny_tokenizer(tokens | marks)
    processor = without_videos(transformers.Glm4vProcessor)(
        transformers.Glm4vImageProcessor(
            size={"shortest_edge": 256, "longest_edge": 1536}, patch_size=4, temporal_patch_size=2
        ),
        tokenizer,
        None,
        chat_template=TEMPLATE.format(picture="<|begin_of_image|><|image|><|end_of_image|>"),
    )
    settings = {
        "model_type": "glm4v",
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 40,
            "out_hidden_size": 120,
            "num_heads": 2,
            "image_size": 24,
            "patch_size": 4,
        },
        "text_config": _text(
            tokenizer,
            rope_parameters={
                "rope_type": "default",
                "mrope_section": [2, 2, 1],
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            },
        ),
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
    } | {
        f"{kind}_{end}_token_id": getattr(tokenizer, f"{kind}_{end}_id")
        for kind in ("image", "video")
        for end, _ in _ENDS
    }
    return _build(settings, processor, tokenizer, seed)


_ENDS = (("start", "begin"), ("end", "end"))


def aya_vision(seed: int = 0) -> Tiny:
    tokenizer = tiny_tokenizer(
        {"start": "<|START_OF_IMG|>", "stop": "<|END_OF_IMG|>", "patch": "<|IMG_PATCH|>", "image_token": "<image>"},
        more=["TILE_GLOBAL", *(f"TILE_{tile}" for tile in range(1, 5))],
    )
    processor = transformers.AyaVisionProcessor(
        transformers.GotOcr2ImageProcessor(size={"height": 24, "width": 24}, crop_to_patches=True, max_patches=3),
        tokenizer,
        patch_size=4,
        img_size=24,
        downsample_factor=2,
        chat_template=TEMPLATE.format(picture="<image>"),
    )
    settings = {
        "model_type": "aya_vision",
        "vision_config": SIGLIP | {"image_size": 24, "vision_use_head": False},
        "text_config": {"model_type": "cohere2", "sliding_window": 24, "sliding_window_pattern": 2} | _text(tokenizer),
        "image_token_index": tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    }
    return _build(settings, processor, tokenizer, seed, window_layers=(0, 2))


PICTURED: dict[str, Callable[..., Tiny]] = {
    "LLaVA-1.5": llava,
    "LLaVA-NeXT": llava_next,
    "LLaVA-OneVision": llava_onevision,
    "Qwen2-VL": qwen2_vl,
    "Qwen2.5-VL": qwen2_5_vl,
    "Qwen3-VL": qwen3_vl,
    "InternVL": internvl,
    "Idefics3": idefics3,
    "SmolVLM": smolvlm,
    "Gemma 3": gemma3,
    "PaliGemma": paligemma,
    "Mistral 3": mistral3,
    "Pixtral": pixtral,
    "GLM-4V": glm4v,
    "Aya Vision": aya_vision,
}
"""Families that read pictures, by their usual names."""
TEXT: dict[str, Callable[..., Tiny]] = {
    "Llama": llama,
    "Qwen2": qwen2,
    "Qwen3": qwen3,
    "Mistral": mistral,
    "SmolLM": smollm3,
    "Gemma 2": gemma2,
    "Gemma 3 (text)": gemma3_text,
}
"""Families that read text alone."""

__all__ = ["END", "PICTURED", "PICTURES", "TEXT", "Tiny", "picture"]
