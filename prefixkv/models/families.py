"""Families of models by the names that people call them, with an alias for one model of each."""

from __future__ import annotations

from dataclasses import dataclass


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
STATES = "layers with a state are left alone"

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
    Family("Qwen3.5", ("qwen3_5",), f"{STATES}; {MULTI_AXIS}", "Qwen/Qwen3.5-27B", "qwen3.5"),
    Family("Gemma 4", ("gemma4",), f"{WINDOWS}, with other heads", "google/gemma-4-e2b-it", "gemma4"),
    Family("Llama 4", ("llama4",), "chunks are left alone", "meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4"),
    Family("Kimi K2.6", ("kimi_k25",), "joint latents are stored", "moonshotai/Kimi-K2.6", "kimi"),
    Family("LFM2-VL", ("lfm2_vl",), STATES, "LiquidAI/LFM2-VL-1.6B", "lfm2-vl"),
    Family("MiniCPM-V 4.6", ("minicpmv4_6",), f"{STATES}; tiles", "openbmb/MiniCPM-V-4.6", "minicpm-v"),
    Family("Qwen3.5 (experts)", ("qwen3_5_moe",), STATES, "Qwen/Qwen3.5-35B-A3B", "qwen3.5-moe"),
    Family("Gemma 3n", ("gemma3n",), f"{WINDOWS}; some read another layer's", "google/gemma-3n-E4B-it", "gemma3n"),
)
"""Every family that the tests run as a small model of its own kind. Others may work too; what cannot is refused."""
