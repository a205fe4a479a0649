"""The demo model, loaded once, and a language model without a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

import prefixkv
from prefixkv.models.loading import LoadedModel
from tests import tiny


@pytest.fixture(scope="session")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A small random Llama whose words are two letters long."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [a + b for a in "bcdfghjklmnpqrstvwxyz" for b in "aeiouxyzwv"][:190]
    vocabulary = {word: index for index, word in enumerate(words)} | {"?": 190, "</s>": 198}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", eos_token="</s>")
    folder = tmp_path_factory.mktemp("text-model")
    tiny.llama(layers=3).save_pretrained(folder)
    fast.save_pretrained(folder)
    return prefixkv.load_model(str(folder), device="cpu")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 words that the text model knows."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    vowels, consonants = "aeiou", "bcdfghjklmnp"
    path.write_text(" ".join(consonants[i * 7 % 12] + vowels[i * i % 5] for i in range(500)), encoding="utf-8")
    return path
