"""Reading a prompt leaves out what nobody looks at, and what is looked at is the same."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.generation.forward import read_prompt
from prefixkv.models.decoder_weights import DecoderWeights
from prefixkv.models.identity import ModelIdentity
from prefixkv.transformers_compat import cache_argument
from tests import tiny

IDS = torch.randint(0, 190, (2, 30), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llama(layers=2)


@pytest.fixture
def seen(model: Any) -> Any:
    """The tokens that the last layer's feed-forward part was given, pass by pass."""
    tokens: list[int] = []
    handle = (
        model.get_decoder()
        .layers[-1]
        .mlp.gate_proj.register_forward_hook(lambda part, given, output: tokens.append(given[0].shape[1]))
    )
    yield tokens
    handle.remove()


def _cache(model: Any) -> PrefixKVCache:
    return PrefixKVCache(ModelIdentity.of("tiny", model.config, "float32").geometry, "30%", "h2o")


def test_a_prompt_ends_with_its_last_token_alone(model: Any, seen: list[int]) -> None:
    whole, read = _cache(model), _cache(model)
    with torch.no_grad(), attention.installed(model):
        expected = model(input_ids=IDS, **cache_argument(whole)).logits
        logits = read_prompt(model, {"input_ids": IDS}, read)
    assert seen == [30, 1]
    assert expected.shape[1] == 30
    torch.testing.assert_close(logits, expected[:, -1], rtol=0, atol=1e-5)
    for one, other in zip(whole.rows, read.rows, strict=True):
        for mine, its in zip(one.layers, other.layers, strict=True):
            assert torch.equal(mine.keys, its.keys)


@pytest.mark.filterwarnings("ignore:this forward pass does not use the compressed cache")
def test_passes_of_other_threads_and_later_ones_are_whole(model: Any, seen: list[int]) -> None:
    def ask() -> None:
        with torch.no_grad():
            model(input_ids=IDS[:1, :7])

    class Reading(PrefixKVCache):
        """While it is read, another thread asks."""

        def begin_pass(self) -> None:
            other = threading.Thread(target=ask)
            other.start()
            other.join()
            super().begin_pass()

    hooks = len(model.get_decoder().layers[-1].mlp._forward_pre_hooks)
    with torch.no_grad(), attention.installed(model):
        read_prompt(model, {"input_ids": IDS}, Reading(_cache(model).geometry, "30%", "h2o"))
        ask()
    assert seen == [7, 1, 7]
    assert len(model.get_decoder().layers[-1].mlp._forward_pre_hooks) == hooks


def test_the_decoder_is_still_one_that_can_be_described(model: Any) -> None:
    before = DecoderWeights.of(model).addresses()
    with attention.installed(model):
        assert DecoderWeights.of(model).addresses() == before
