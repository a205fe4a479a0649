"""What is to be known of a prompt's tokens is read off them on the host, once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.engine.host_inputs import read_from_host
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.text_marks import TextMarks
from tests import tiny


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llava(layers=2)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The token ids off which marks are read."""
    found, of = list[torch.Tensor](), TextMarks.of

    def look(tokens: torch.Tensor, *others: Any) -> TextMarks:
        found.append(tokens)
        return of(tokens, *others)

    monkeypatch.setattr(TextMarks, "of", look)
    return found


def test_a_model_on_a_device_is_not_asked_for_its_ids(model: Any, looked_at: list[torch.Tensor]) -> None:
    inputs, cache = tiny.prompt(40), PrefixKVCache(KVGeometry.of(model.config, "float32"), "50%", "h2o")
    with attention.installed(model):
        read_from_host(model, inputs, cache)
    assert [tokens is inputs["input_ids"] for tokens in looked_at] == [True]
    assert cache.row.is_text is not None
    assert torch.equal(cache.row.is_text, inputs["input_ids"] != tiny.IMAGE_TOKEN)


def test_marks_of_a_pass_that_has_failed_are_not_those_of_the_next(model: Any, looked_at: list[torch.Tensor]) -> None:
    cache = PrefixKVCache(KVGeometry.of(model.config, "float32"), "50%", "h2o")
    with attention.installed(model):
        with pytest.raises(ValueError, match="do not match"):
            model(**tiny.prompt(40) | {"input_ids": tiny.prompt(40)["input_ids"][:, 3:]}, **cache.argument)
        model(input_ids=tiny.text(20), **cache.argument)
    assert len(looked_at) == 2
    assert cache.row.is_text is None
