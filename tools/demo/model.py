"""The architecture of the demo model, its processor, and how both are saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.demo.scenes import IMAGE_PIXELS
from tools.demo.tokens import CHAT_TEMPLATE, IMAGE, VOCABULARY_SIZE

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

PATCH_PIXELS = 14
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def build_config(tokenizer: PreTrainedTokenizerFast, tiny: bool = False) -> LlavaConfig:
    """The configuration of the model.

    Args:
        tokenizer: Gives the ids of the special tokens.
        tiny: Two narrow layers of each kind, for a quick try of the training on a CPU.

    Returns:
        A stock LLaVA configuration: CLIP tower, 576 image tokens, Llama decoder with three query heads a key head.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=64 if tiny else 256,
        intermediate_size=128 if tiny else 1024,
        num_hidden_layers=2 if tiny else 6,
        num_attention_heads=2 if tiny else 4,
        image_size=IMAGE_PIXELS,
        patch_size=PATCH_PIXELS,
        projection_dim=64 if tiny else 256,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=96 if tiny else 384,
        intermediate_size=192 if tiny else 1024,
        num_hidden_layers=2 if tiny else 8,
        num_attention_heads=3 if tiny else 6,
        num_key_value_heads=1 if tiny else 2,
        head_dim=32 if tiny else 64,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.vocab[IMAGE],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_PIXELS // PATCH_PIXELS) ** 2,
        tie_word_embeddings=True,
    )


def build_model(config: LlavaConfig, seed: int) -> LlavaForConditionalGeneration:
    """A freshly initialised model in float32."""
    import torch
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).float()


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor: pictures to 336 x 336 pixels, `<image>` to 576 tokens, and the chat template."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(
        size={"height": IMAGE_PIXELS, "width": IMAGE_PIXELS},
        crop_size={"height": IMAGE_PIXELS, "width": IMAGE_PIXELS},
        image_mean=list(PIXEL_MEAN),
        image_std=list(PIXEL_STD),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def save_model(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write a folder that `from_pretrained` reads: float16 shards of at most 15 MB, configuration, processor.

    Args:
        model: The trained model, on any device; it is left unchanged.
        processor: Its processor.
        folder: Made if missing; files of an earlier save are replaced.
    """
    import copy

    import torch
    from transformers import GenerationConfig

    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    half: Any = copy.deepcopy(model)
    half.to(device="cpu", dtype=torch.float16)
    text = half.config.text_config
    half.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        max_new_tokens=320,
    )
    half.save_pretrained(folder, max_shard_size="14MB")
    processor.save_pretrained(folder)
    _declare_float32(folder / "config.json")


def _declare_float32(path: Path) -> None:
    # The weights are float16 only to be small; a CPU computes in float32, so that is what loading should give.
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
