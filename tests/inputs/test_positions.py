"""Texts that outgrow a model's positions are refused, in every way of asking."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from prefixkv.chat.conversation import Conversation
from prefixkv.errors import PrefixKVError
from prefixkv.generation.prefill import Prefill
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.positions import answer_room
from prefixkv.models.loading import load_model
from tests.small_demo import small_demo


def config(longest: int | None) -> Any:
    return SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(max_position_embeddings=longest))


def test_room_is_what_the_prompt_leaves() -> None:
    assert answer_room(config(100), 60) == 40
    assert answer_room(config(100), 99) == 1
    assert answer_room(config(None), 10**6) is None
    with pytest.raises(PrefixKVError, match="100 tokens, and the model reads 100"):
        answer_room(config(100), 100)


def test_a_conversation_refuses_what_is_too_long_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("demo", device="cpu")
    notices: list[str] = []
    talk = Conversation(loaded, "20%", sampling=Sampling(max_new_tokens=300), notify=notices.append)
    picture = Image.new("RGB", (336, 336), "grey")
    text = loaded.model.config.get_text_config(decoder=True)
    first = "".join(talk.ask("How many objects are there?", [picture]))
    read = len(talk.reading.tokens)
    monkeypatch.setattr(text, "max_position_embeddings", read + 40)
    with pytest.raises(PrefixKVError, match="begin a new conversation"):
        "".join(talk.ask("How many objects are there? " * 20))
    assert len(talk.history) == 1
    monkeypatch.setattr(text, "max_position_embeddings", read + 30)
    "".join(talk.ask("Describe the image."))
    assert any("positions are used up" in notice for notice in notices)
    assert len(talk.reading.tokens) <= read + 30
    assert talk.history[0][1].text == first


def test_an_evaluation_refuses_what_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = small_demo()
    monkeypatch.setattr(loaded.model.config.get_text_config(decoder=True), "max_position_embeddings", 20)
    with pytest.raises(PrefixKVError, match="the prompt has 30 tokens, and the model reads 20"):
        Prefill(loaded.model, loaded.geometry, {"input_ids": torch.zeros(1, 30, dtype=torch.int64)})
