"""A step divided among devices: where it is divided, and that the stages give what the whole does."""

from __future__ import annotations

import itertools
from itertools import pairwise
from typing import Any

import accelerate
import pytest
import torch

import prefixkv
from prefixkv.benchmark.random_model import random_look_ahead
from prefixkv.cache import attention
from prefixkv.cache.fused_layers import FusedLayer, fused_layers
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.snapshot import CacheSnapshot
from prefixkv.decoder import step
from prefixkv.decoder.stages import Stage, stages_of
from prefixkv.engine import captured_rows
from prefixkv.engine.decoding import decode_rows
from prefixkv.engine.memory import memory_limits
from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import METHODS
from prefixkv.models.decoder_weights import DecoderWeights, UnknownDecoderError
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.codec import CODECS
from tests import tiny
from tests.engine.test_captured_rows import mistral

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([FIRST] * 5, [Stage(FIRST, range(3), True, True)]),
        (
            [FIRST, FIRST, FIRST, SECOND, SECOND],
            [Stage(FIRST, range(2), True, False), Stage(SECOND, range(2, 3), False, True)],
        ),
        # The head has the embedding's weights, so that accelerate leaves both on one device.
        (
            [FIRST, FIRST, SECOND, SECOND, FIRST],
            [
                Stage(FIRST, range(1), True, False),
                Stage(SECOND, range(1, 3), False, False),
                Stage(FIRST, range(3, 3), False, True),
            ],
        ),
        (
            [FIRST, SECOND, SECOND, SECOND, SECOND],
            [Stage(FIRST, range(0), True, False), Stage(SECOND, range(3), False, True)],
        ),
    ],
)
def test_a_stage_is_a_run_of_layers_on_one_device(places: list[torch.device], expected: list[Stage]) -> None:
    found = stages_of(places)
    assert [(stage.device, list(stage.layers), stage.embeds, stage.answers) for stage in found] == [
        (stage.device, list(stage.layers), stage.embeds, stage.answers) for stage in expected
    ]


CPU = torch.device("cpu")


def after(*places: int) -> Any:
    """A division of whatever there is behind so many layers."""

    def divide(devices: list[torch.device]) -> list[Stage]:
        ends = [0, *places, len(devices) - 2]
        last = len(ends) - 2
        return [Stage(CPU, range(*part), index == 0, index == last) for index, part in enumerate(pairwise(ends))]

    return divide


def answers(model: Any, method: str, codec: str, captured: bool, batch: int = 2) -> list[Any]:
    """Tokens of a prompt, of a second turn, and of the same turn again, after the first was undone."""
    geometry = KVGeometry.of(model.config, "float32")
    look_ahead, found = random_look_ahead(model, geometry), list[Any]()
    with attention.installed(model):
        cache = PrefixKVCache(geometry, "30%", method, None, look_ahead, codec)

        def answer(tokens: torch.Tensor) -> list[list[int]]:
            steps = decode_rows(model, {"input_ids": tokens}, cache, Sampling(4), captured)
            return list(steps)

        found.append(answer(torch.cat([tiny.text(30, seed) for seed in range(batch)])))
        if batch == 1:
            before = CacheSnapshot.take(cache.row)
            found.append(answer(tiny.text(9, 7)))
            before.restore(cache.row, model.device)
            assert answer(tiny.text(9, 7)) == found[-1]
    return found


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize(
    ("method", "codec"),
    [*zip(sorted(set(METHODS) - {"prefixkv-release"}), itertools.cycle(sorted(set(CODECS) - {"mixed"})), strict=False)],
)
def test_stages_give_the_tokens_of_the_whole(method: str, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_rows, "device_obstacle", lambda device: None)
    for batch, divide in ((1, after(1, 3)), (2, after(0, 2))):
        plain = answers(mistral(), method, codec, captured=False, batch=batch)
        monkeypatch.setattr(step, "stages_of", divide)
        assert answers(mistral(), method, codec, captured=True, batch=batch) == plain


def test_hooks_of_accelerate_are_passed_by() -> None:
    """Of a model over several devices every module has one, which moves its arguments."""
    model = accelerate.dispatch_model(tiny.llama(), {"": "cpu"}, main_device="cpu", force_hooks=True)
    assert hasattr(model.model.layers[1], "_hf_hook")
    before = model.model.layers[1]._old_forward
    with fused_layers(model, lambda *_: None, anywhere=True):
        assert isinstance(model.model.layers[1]._old_forward, FusedLayer)
        assert not isinstance(model.model.layers[1].forward, FusedLayer)
        with fused_layers(model, lambda *_: None, anywhere=True):
            pass
        assert isinstance(model.model.layers[1]._old_forward, FusedLayer)
        DecoderWeights.of(model)
    assert model.model.layers[1]._old_forward == before
    weights = DecoderWeights.of(model)
    plain = DecoderWeights.of(tiny.llama())
    place = torch.tensor([3])
    assert all(map(torch.equal, weights.angles(place), plain.angles(place)))


def test_weights_off_the_devices_are_refused() -> None:
    model = tiny.llama()
    model.model.layers[1].to("meta")
    with pytest.raises(UnknownDecoderError, match="kept off the GPU"):
        DecoderWeights.of(model)


def test_a_model_divided_by_heads_is_refused() -> None:
    model = tiny.llama()
    model._tp_size = 2
    with pytest.raises(PrefixKVError, match=r"divided among 2 processes .*device_map"), prefixkv.compress(model, "20%"):
        pass


def test_the_gpu_that_is_full_first_says_how_much_all_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {FIRST: 8_000, SECOND: 3_000}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 10_000))
    assert memory_limits(None, FIRST) == memory_limits(None, FIRST, [FIRST] * 4) == 4_800
    # The second has a quarter of the layers, so that four times what it has free can be stored in all.
    assert memory_limits(None, FIRST, [FIRST] * 3 + [SECOND]) == int(8_000 / 0.75 * 0.6)
    assert memory_limits(None, FIRST, [FIRST] * 2 + [SECOND] * 2) == 3_600
