"""The program as a user runs it, and a model that is small enough to load at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PROGRAM = [sys.executable, "-m", "prefixkv_cli"]
ENVIRONMENT = {
    **{
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    },
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "HF_HUB_OFFLINE": "1",
    "PROMPT_TOOLKIT_NO_CPR": "1",
    "TERM": "xterm-256color",
}

_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


@pytest.fixture(scope="session")
def run() -> Run:
    """Run the program to its end; keyword arguments are those of `subprocess.run`."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        home = {name: os.environ[name] for name in ("PREFIXKV_HOME",) if name in os.environ}
        options.setdefault("env", ENVIRONMENT | home)
        return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=120, **options)

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture file."""
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random LLaVA that never ends an answer by itself; its words are two letters long."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    from tests import tiny

    words = ["?", "user", "assistant", *(a + b for a in "bcdfghjklmnpqrstvwxyz" for b in "aeiouxyzwv")]
    vocabulary = {word: index for index, word in enumerate(words[:198])} | {"</s>": 198, "<image>": tiny.IMAGE_TOKEN}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="?",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )
    folder = tmp_path_factory.mktemp("model")
    model = tiny.llava()
    # Logits of 0 never are the highest of two hundred random ones: neither the end token nor an image token comes.
    model.lm_head.weight.data[[198, tiny.IMAGE_TOKEN]] = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
