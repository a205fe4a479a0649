"""The program as a user runs it, and a model that is small enough to load at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.program import Run, run_here, run_in_new_process

_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


@pytest.fixture(scope="session")
def run() -> Run:
    """Run the program to its end in this process."""
    return run_here


@pytest.fixture(scope="session")
def run_process() -> Run:
    """Run the program to its end in a process of its own: for what a process has of its own, and a few as users do."""
    return run_in_new_process


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


@pytest.fixture
def use_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Have the hub's client ask another address, and keep files in a new folder."""
    from huggingface_hub import constants

    def use(url: str) -> None:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in (("ENDPOINT", url), ("HUGGINGFACE_CO_URL_TEMPLATE", template), ("HF_HUB_OFFLINE", False)):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    return use
