"""Shapes of well-known models, so that budgets can be planned without weights or network."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.models.geometry import KVGeometry


@dataclass(frozen=True)
class Shape:
    """What planning needs to know of a model.

    Attributes:
        geometry: shape of the KV cache, in the dtype the model is published in.
        context_tokens: longest text that it was trained for.
        parameters: numbers in its weights, vision tower included.
    """

    geometry: KVGeometry
    context_tokens: int
    parameters: int


SHAPES = {
    "llava-hf/llava-1.5-7b-hf": Shape(KVGeometry(32, 32, 128, "float16"), 4096, 7_063_427_072),
    "llava-hf/llava-1.5-13b-hf": Shape(KVGeometry(40, 40, 128, "float16"), 4096, 13_350_839_296),
    "Qwen/Qwen2-VL-7B-Instruct": Shape(KVGeometry(28, 4, 128, "bfloat16"), 32768, 8_291_375_616),
}
"""By hub id, from the models' published configurations."""
