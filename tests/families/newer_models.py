"""Small random models whose layers are of several kinds, with pictures, each from a shrunk configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

from prefixkv.transformers_compat import asks_for_states
from tests.families.patch_processor import (
    MERGE,
    PATCH,
    SIDE,
    PatchProcessor,
    kimi_pictures,
    lfm_pictures,
    llama4_pictures,
)
from tests.families.shrunk import small_config
from tests.families.tiny_models import (
    QWEN_PICTURE,
    Tiny,
    of_config,
    qwen_ids,
    qwen_images,
    qwen_tokenizer,
    without_videos,
)
from tests.families.tiny_tokenizer import TEMPLATE, tiny_tokenizer
from tests.families.type_settings import put_in

WIDTH = 64
"""Of the text part, as `small_config` makes it."""
NEW_TOKENS = 12
SOUND = {"conf_num_hidden_layers": 1, "conf_num_attention_heads": 2}
TOWER = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}


def _require(model_type: str) -> None:
    """Refuse what the installed transformers does not know, or knows with states in a cache of its own.

    Raises:
        ImportError: it is too old.
    """
    if model_type not in transformers.CONFIG_MAPPING or not asks_for_states():
        raise ImportError(f"transformers {transformers.__version__} is too old for {model_type}")


def _config(model_type: str, tokenizer: Any, further: dict[str, Any]) -> Any:
    """A shrunk configuration for a tokenizer, with further values."""
    config = small_config(model_type)
    values = config.to_dict()
    put_in(values, further)
    words = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None}
    put_in(values, {"text_config": words | {"eos_token_id": tokenizer.eos_token_id}})
    return type(config).from_dict(values)


def _qwen3_5(model_type: str, seed: int) -> Tiny:
    _require(model_type)
    tokenizer = qwen_tokenizer()
    processor = without_videos(transformers.Qwen3VLProcessor)(
        qwen_images(PATCH), tokenizer, None, chat_template=TEMPLATE.format(picture=QWEN_PICTURE)
    )
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2, "num_position_embeddings": 64}
    further = {"vision_config": tower | {"patch_size": PATCH, "out_hidden_size": WIDTH}} | qwen_ids(tokenizer)
    return of_config(_config(model_type, tokenizer, further), processor, tokenizer, seed, new_tokens=NEW_TOKENS)


def qwen3_5(seed: int = 0) -> Tiny:
    return _qwen3_5("qwen3_5", seed)


def qwen3_5_moe(seed: int = 0) -> Tiny:
    return _qwen3_5("qwen3_5_moe", seed)


def gemma4(seed: int = 0) -> Tiny:
    _require("gemma4")
    marks = {f"{name}_token": f"<{name}>" for name in ("image", "boi", "eoi", "audio", "boa", "eoa")}
    tokenizer = tiny_tokenizer(marks)
    images = transformers.models.gemma4.image_processing_pil_gemma4.Gemma4ImageProcessorPil
    processor = without_videos(transformers.Gemma4Processor)(
        None,
        images(patch_size=PATCH, max_soft_tokens=70),
        tokenizer,
        None,
        chat_template=TEMPLATE.format(picture="<image>"),
    )
    tower = TOWER | {"num_key_value_heads": 2, "head_dim": 16, "patch_size": PATCH, "position_embedding_size": 256}
    further = {
        "vision_config": tower,
        "audio_config": None,
        "text_config": {"vocab_size_per_layer_input": len(tokenizer)},
        "image_token_id": tokenizer.image_token_id,
        "boi_token_id": tokenizer.boi_token_id,
        "eoi_token_id": tokenizer.eoi_token_id,
    }
    windows = tuple(place for place in range(12) if place % 6 != 5)
    return of_config(
        _config("gemma4", tokenizer, further), processor, tokenizer, seed, new_tokens=NEW_TOKENS, window_layers=windows
    )


def gemma3n(seed: int = 0) -> Tiny:
    """With a small tower of timm's in the place of its own, which has 300 million weights."""
    _require("gemma3n")
    marks = {f"{name}_token": f"<{name}>" for name in ("image", "boi", "eoi", "audio", "boa", "eoa")}
    tokenizer = tiny_tokenizer(marks)
    processor = without_videos(transformers.Gemma3nProcessor)(
        None,
        transformers.SiglipImageProcessor(size={"height": SIDE * 8, "width": SIDE * 8}),
        tokenizer,
        image_seq_length=16,
        chat_template=TEMPLATE.format(picture="<image>"),
    )
    words = len(tokenizer)
    further = {
        "vision_config": {"architecture": "test_resnet", "hidden_size": 96, "vocab_size": 8, "vocab_offset": words},
        "audio_config": {"vocab_size": 8, "vocab_offset": words + 8, "hidden_size": 32} | SOUND,
        "text_config": {"vocab_size_per_layer_input": words},
        "vision_soft_tokens_per_image": 16,
        "image_token_id": tokenizer.image_token_id,
        "boi_token_id": tokenizer.boi_token_id,
        "eoi_token_id": tokenizer.eoi_token_id,
    }
    facts = {"new_tokens": NEW_TOKENS, "window_layers": (0, 1, 2, 3, 5, 6, 7)}
    return of_config(_config("gemma3n", tokenizer, further), processor, tokenizer, seed, **facts)


def kimi(seed: int = 0) -> Tiny:
    _require("kimi_k25")
    marks = ("<|media_begin|>", "<|media_pad|>", "<|media_end|>")
    tokenizer = tiny_tokenizer({"begins": marks[0], "image_token": marks[1], "ends": marks[2]})
    processor = PatchProcessor(tokenizer, kimi_pictures, marks, TEMPLATE.format(picture=marks[1]))
    tower = TOWER | {"patch_size": PATCH, "pos_emb_height": 8, "pos_emb_width": 8}
    further = {
        "vision_config": tower,
        "projection_hidden_size": 32,
        "image_token_id": tokenizer.image_token_id,
        "vision_start_token_id": tokenizer.convert_tokens_to_ids(marks[0]),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids(marks[2]),
    }
    return of_config(_config("kimi_k25", tokenizer, further), processor, tokenizer, seed, new_tokens=NEW_TOKENS)


def lfm_vl(seed: int = 0) -> Tiny:
    _require("lfm2_vl")
    marks = ("<|image_start|>", "<image>", "<|image_end|>")
    tokenizer = tiny_tokenizer({"begins": marks[0], "image_token": marks[1], "ends": marks[2]})
    processor = PatchProcessor(tokenizer, lfm_pictures, marks, TEMPLATE.format(picture=marks[1]))
    tower = TOWER | {"patch_size": PATCH, "num_patches": 64, "vision_use_head": False}
    further = {
        "vision_config": tower,
        "projector_hidden_size": 32,
        "downsample_factor": MERGE,
        "image_token_id": tokenizer.image_token_id,
    }
    return of_config(_config("lfm2_vl", tokenizer, further), processor, tokenizer, seed, new_tokens=NEW_TOKENS)


def llama4(seed: int = 0) -> Tiny:
    _require("llama4")
    marks = ("<|image_start|>", "<|patch|>", "<|image_end|>")
    tokenizer = tiny_tokenizer({"begins": marks[0], "image_token": marks[1], "ends": marks[2]})
    processor = PatchProcessor(tokenizer, llama4_pictures, marks, TEMPLATE.format(picture=marks[1]))
    tower = TOWER | {"image_size": SIDE, "patch_size": PATCH, "intermediate_size": 32 * MERGE**2}
    widths = dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 32)
    further = {"vision_config": tower | widths, "image_token_index": tokenizer.image_token_id}
    config = _config("llama4", tokenizer, further)
    return of_config(config, processor, tokenizer, seed, new_tokens=NEW_TOKENS, window_layers=(0, 1, 2, 4, 5, 6))


def minicpm_v(seed: int = 0) -> Tiny:
    _require("minicpmv4_6")
    names = ("image", "video", "image_start", "image_end", "slice_start", "slice_end", "image_id_start", "image_id_end")
    tokenizer = tiny_tokenizer({f"{name}_token": f"<{name}>" for name in names})
    images = transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6.MiniCPMV4_6ImageProcessorPil
    read = images(patch_size=PATCH, scale_resolution=32, max_slice_nums=4)
    processor = without_videos(transformers.MiniCPMV4_6Processor)(
        read, read, tokenizer, chat_template=TEMPLATE.format(picture="<image>")
    )
    further = {
        "vision_config": TOWER | {"image_size": 32, "patch_size": PATCH},
        "insert_layer_id": 0,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
    }
    return of_config(_config("minicpmv4_6", tokenizer, further), processor, tokenizer, seed, new_tokens=NEW_TOKENS)


NEWER: dict[str, Callable[..., Tiny]] = {
    "Qwen3.5": qwen3_5,
    "Gemma 4": gemma4,
    "Llama 4": llama4,
    "Kimi K2.6": kimi,
    "LFM2-VL": lfm_vl,
    "MiniCPM-V 4.6": minicpm_v,
    "Qwen3.5 (experts)": qwen3_5_moe,
    "Gemma 3n": gemma3n,
}
"""By their usual names."""
