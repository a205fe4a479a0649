"""Captured decoding against the plain path, on a GPU: same tokens, same entries, whatever the turn."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.decoder.captured import CapturedStep
from prefixkv.engine.decoding import decode, decode_rows
from prefixkv.generation.sampling import Sampling
from prefixkv.models.geometry import KVGeometry
from tests import tiny
from tests.engine.test_captured_rows import mistral, qwen2

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["llava", "qwen2"])
def model(request: pytest.FixtureRequest) -> Any:
    return (tiny.llava() if request.param == "llava" else qwen2()).cuda()


def ids(length: int, seed: int = 2, batch: int = 1) -> dict[str, torch.Tensor]:
    return {"input_ids": tiny.text(length, seed, batch).cuda()}


@contextlib.contextmanager
def opened(model: Any, budget: str, method: str = "prefixkv") -> Iterator[PrefixKVCache]:
    """An empty cache for the model; no profile is looked for."""
    with attention.installed(model):
        yield PrefixKVCache(KVGeometry.of(model.config, "float32"), budget, method)


def entries(cache: PrefixKVCache) -> list[tuple[list[int], torch.Tensor]]:
    """Positions and importance of every layer, in the order of the buffers."""
    return [
        (cache.kept_positions(index).tolist(), layer.importance[..., : layer.kept_tokens].cpu())
        for index, layer in enumerate(cache.layers)
    ]


def two_turns(model: Any, budget: str, method: str, sampling: Sampling, captured: bool) -> tuple[Any, Any]:
    with opened(model, budget, method) as cache:
        tokens = list(decode(model, ids(80), cache, sampling, (), captured=captured))
        tokens += list(decode(model, ids(30, seed=5), cache, sampling, (), captured=captured))
        assert cache.seen_tokens == 80 + 30 + 2 * (sampling.max_new_tokens - 1)
        return tokens, entries(cache)


def test_packed_entries_are_decoded_without_unpacking_them() -> None:
    """Rounding may turn a close choice; where the tokens are given, the logits stay together."""
    model = mistral().cuda()
    found = []
    for captured in (False, True):
        with opened(model, "40%", "guided") as cache:
            tokens = list(decode(model, ids(80), cache, Sampling(40), (), captured=captured))
            assert cache.layers[0].bits in (8, 84, 4)
            found.append(tokens)
    assert found[0][:8] == found[1][:8]


CASES = [("100%", "full"), ("30%", "prefixkv"), ("60tok", "h2o"), ("20%", "local")]


@pytest.mark.parametrize(("budget", "method"), CASES)
@pytest.mark.parametrize("sampling", [Sampling(256), Sampling(256, temperature=1.5, top_p=0.9, seed=3)])
def test_captured_and_plain_give_the_same_256_tokens_in_both_turns(
    model: Any, budget: str, method: str, sampling: Sampling
) -> None:
    plain, plain_entries = two_turns(model, budget, method, sampling, captured=False)
    captured, captured_entries = two_turns(model, budget, method, sampling, captured=True)
    assert captured == plain
    for (positions, importance), (expected, expected_importance) in zip(captured_entries, plain_entries, strict=True):
        assert positions == expected
        torch.testing.assert_close(importance, expected_importance, rtol=1e-3, atol=1e-3)


def test_rows_of_a_batch_give_the_tokens_they_give_alone(model: Any) -> None:
    rows, sampling = ids(60, batch=3)["input_ids"], Sampling(60)
    with opened(model, "40%", "h2o") as cache:
        together = list(decode_rows(model, {"input_ids": rows}, cache, sampling, captured=True))
    for row in range(3):
        with opened(model, "40%", "h2o") as cache:
            alone = list(decode(model, {"input_ids": rows[row : row + 1]}, cache, sampling, (), captured=True))
        assert [step[row] for step in together] == alone


def test_what_was_not_asked_for_is_not_read(model: Any) -> None:
    """The cache has read one token less than was given out, also where the answer is broken off or stopped."""
    with opened(model, "50%") as cache:
        answer = decode(model, ids(40), cache, Sampling(100), (), captured=True)
        given = [next(answer) for _ in range(7)]
        answer.close()
        assert cache.seen_tokens == 40 + 6
    with opened(model, "50%") as cache:
        stop = given[4]
        tokens = list(decode(model, ids(40), cache, Sampling(100), {stop}, captured=True))
        assert tokens == given[: given.index(stop) + 1]
        assert cache.seen_tokens == 40 + len(tokens) - 1


def test_a_later_conversation_replays_the_same_graph_and_new_weights_do_not() -> None:
    model = tiny.llama().cuda()

    def answer() -> list[int]:
        with opened(model, "50%") as cache:
            return list(decode(model, ids(40), cache, Sampling(30), (), captured=True))

    before, step = answer(), CapturedStep.of(model, 1)
    assert answer() == before
    assert CapturedStep.of(model, 1) is step
    assert CapturedStep.memory(model) == (1, step.bytes)
    assert step.bytes > 0
    model.load_state_dict(tiny.llama(seed=9).state_dict(), assign=True)
    model.cuda()
    with opened(model, "50%") as cache:
        expected = list(decode(model, ids(40), cache, Sampling(30), (), captured=False))
    assert answer() == expected != before
    assert CapturedStep.of(model, 1) is not step


def test_a_finished_conversation_leaves_none_of_its_buffers_behind(model: Any) -> None:
    with opened(model, "100%", "full") as cache:
        list(decode(model, ids(3000), cache, Sampling(20), (), captured=True))
        held, kept = torch.cuda.memory_allocated(), cache.usage().allocated_bytes
    del cache
    gc.collect()
    assert held - torch.cuda.memory_allocated() >= kept


def test_growing_holds_one_layer_twice_and_not_all(model: Any) -> None:
    with opened(model, "100%", "full") as cache:
        steps = decode_rows(model, ids(6000), cache, Sampling(400), captured=True)
        for _ in range(3):
            next(steps)
        kept, layers = cache.usage().allocated_bytes, len(cache.layers)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        list(steps)
        assert torch.cuda.max_memory_allocated() - before < 2 * kept / layers + kept / 8


def test_capturing_takes_less_than_two_seconds_once_kernels_are_compiled() -> None:
    first, second = tiny.llama(layers=32).cuda(), tiny.llama(layers=32, seed=1).cuda()
    CapturedStep.of(first, 1)
    started = time.perf_counter()
    CapturedStep.of(second, 1)
    torch.cuda.synchronize()
    assert time.perf_counter() - started < 2


def test_another_kind_of_model_is_decoded_on_the_plain_path_with_a_notice() -> None:
    model = tiny.llama().cuda()
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    heard: list[str] = []
    with opened(model, "50%") as cache:
        tokens = list(decode(model, ids(40), cache, Sampling(20), (), notify=heard.append))
    assert len(tokens) == 20
    assert heard == ["the step is not captured, decoding takes the plain path: its LlamaMLP has a hook"]
