"""A model with the demo's words, template and way to read pictures, and small random weights: a tenth of its time.

It checks that two ways to an answer are one, where a real answer shows no more; never quality.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

import prefixkv
from prefixkv.models.loading import LoadedModel
from tests.tiny import sharpen

PICTURE_SIDE = 140
"""Of 10 x 10 patches: 3 % of a prompt are as many entries as any method keeps at least."""
_WEIGHTS = Path(prefixkv.__file__).parent / "demo" / "weights"
_COPIED = ("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@functools.cache
def small_demo() -> LoadedModel:
    """The model, loaded from a folder as a user's is; one for all tests of a process."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "small")
        return prefixkv.load_model(str(Path(folder) / "small"), device="cpu")


def write(folder: Path) -> None:
    """Write it as a folder that `load_model` takes."""
    folder.mkdir(parents=True)
    for name in _COPIED:
        shutil.copy(_WEIGHTS / name, folder / name)
    processor = json.loads((_WEIGHTS / "processor_config.json").read_text())
    processor["image_processor"]["crop_size"] = {"height": PICTURE_SIDE, "width": PICTURE_SIDE}
    processor["image_processor"]["size"] = {"shortest_edge": PICTURE_SIDE}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    config = LlavaConfig.from_pretrained(_WEIGHTS)
    config.image_seq_length = (PICTURE_SIDE // 14) ** 2
    vision, text = config.vision_config, config.text_config
    vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers, vision.num_attention_heads = 32, 64, 1, 2
    vision.image_size, vision.projection_dim = PICTURE_SIDE, 32
    text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.num_attention_heads = 96, 96, 3, 3
    text.num_key_value_heads, text.head_dim, text.layer_types = 1, 32, None
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    sharpen(model)
    model.save_pretrained(folder)
