"""A model over two GPUs: the tokens of one, and memory that each of the two has for itself."""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch

import prefixkv
from prefixkv.benchmark.random_model import random_look_ahead
from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.decoder.stages import layer_devices
from prefixkv.engine.admission import Footprint, Ledger
from prefixkv.engine.decoding import decode_rows
from prefixkv.errors import BudgetTooSmallError
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import METHODS
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.codec import CODECS
from tests import tiny
from tests.engine.test_captured_rows import mistral

CARDS = ("cuda:0", "cuda:1")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < len(CARDS), reason="needs two GPUs"),
]

FIRST = ("model.embed_tokens", "model.rotary_emb", "model.layers.0")
SECOND = ("model.layers.1", "model.layers.2", "model.norm", "lm_head")


def split() -> Any:
    """One layer on the first card, two on the second."""
    places = dict.fromkeys(FIRST, CARDS[0]) | dict.fromkeys(SECOND, CARDS[1])
    return accelerate.dispatch_model(mistral(), places, main_device=CARDS[0])


def answers(model: Any, method: str, codec: str) -> list[list[int]]:
    """Tokens of three prompts that are read and decoded as one batch, by captured steps."""
    geometry = KVGeometry.of(model.config, "float32")
    ids = torch.cat([tiny.text(60, seed) for seed in range(3)]).to(CARDS[0])
    with attention.installed(model):
        budget = "100%" if METHODS[method].keeps_all else "30%"
        cache = PrefixKVCache(geometry, budget, method, None, random_look_ahead(model, geometry), codec)
        return list(decode_rows(model, {"input_ids": ids}, cache, Sampling(24), captured=True))


# Mixed precision first: of all codecs it is the one with two runs of entries in every layer.
@pytest.mark.parametrize("codec", ["mixed", *(name for name in CODECS if name != "mixed")])
def test_tokens_are_those_of_one_card(codec: str) -> None:
    """In float32, every method that can be captured and can be stored so."""
    names = [name for name, method in METHODS.items() if method.positions == "true"]
    if codec == "mixed":
        names = [name for name in names if not METHODS[name].keeps_all]
    for name in names:
        assert answers(split(), name, codec) == answers(mistral().to(CARDS[0]), name, codec), name


def test_each_card_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three requests fit at a time; what is reserved on a card is never above its limit."""
    model, ids = split(), tiny.text(200).to(CARDS[0])
    assert list(map(str, layer_devices(model))) == [CARDS[0], CARDS[1], CARDS[1]]
    with prefixkv.Engine(mistral().to(CARDS[0]), memory="1GiB") as engine:
        expected = engine.submit({"input_ids": ids}, "50%", Sampling(20)).result(120)
    with prefixkv.Engine(model, memory="20GB,10GB") as engine:
        assert engine.memory_bytes == 30 * 10**9
        assert engine.submit({"input_ids": ids}, "50%", Sampling(20)).result(120) == expected
        limits = [2 * part.most for part in engine.footprint(200, "50%", 20).parts]
    seen: list[list[int]] = []
    begin = Ledger.begin

    def noted(ledger: Ledger, number: int, footprint: Footprint) -> None:
        begin(ledger, number, footprint)
        seen.append([ledger.reserved(name) for name in CARDS])

    monkeypatch.setattr(Ledger, "begin", noted)
    with prefixkv.Engine(model, memory=limits) as engine:
        streams = [engine.submit({"input_ids": ids}, "50%", Sampling(20)) for _ in range(3)]
        assert [stream.result(120) for stream in streams] == [expected] * 3
        with pytest.raises(BudgetTooSmallError, match=f"on {CARDS[0]}, and memory there is"):
            engine.submit({"input_ids": tiny.text(900).to(CARDS[0])}, "50%", Sampling(20))
    assert all(count <= limit for counts in seen for count, limit in zip(counts, limits, strict=True))
    assert all(max(column) > limit // 2 for column, limit in zip(zip(*seen, strict=True), limits, strict=True))
