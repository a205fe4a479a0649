"""Many requests of all kinds, and many threads with all ways to ask, on one model: each is answered as it is alone."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prefixkv
from prefixkv.engine.decoding import decode
from prefixkv.engine.stream import Stream
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import METHODS
from tests import tiny

THREADS = 32
PICTURE_END = 5
STOPS = (5, 17, 90, 101)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llava(layers=3)


def _inputs(picture: int, length: int, seed: int) -> dict[str, Any]:
    """A prompt of one picture, or of none, and so many tokens of text."""
    if picture < 0:
        return {"input_ids": tiny.text(length, seed=seed)}
    inputs = tiny.prompt(PICTURE_END + length, seed=picture)
    inputs["input_ids"][:, PICTURE_END:] = tiny.text(length, seed=seed)
    return inputs


def _alone(model: Any, inputs: dict[str, Any], budget: str, method: str, sampling: Sampling, stops: Any) -> list[int]:
    with prefixkv.compress(model, budget, method) as cache:
        return list(decode(model, inputs, cache, sampling, stops))


requests = st.fixed_dictionaries(
    {
        "inputs": st.builds(_inputs, st.sampled_from([-1, 1, 1, 1, 2]), st.integers(1, 90), st.integers(0, 2**20)),
        "budget": st.sampled_from(["100%", "50%", "20%", "5%", "24KiB"]),
        "sampling": st.builds(
            Sampling,
            max_new_tokens=st.integers(1, 16),
            temperature=st.sampled_from([0.0, 0.0, 0.8]),
            top_p=st.sampled_from([1.0, 0.9]),
            seed=st.integers(0, 2**63 - 1),
        ),
        "stops": st.sampled_from([(), STOPS]),
        # After how many tokens it is cancelled, and before how many of those that follow it is looked at.
        "cancelled_after": st.one_of(st.none(), st.none(), st.none(), st.integers(0, 8)),
        "awaits": st.integers(0, 3),
    }
)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.filterwarnings("ignore:.* works without look-ahead")
@pytest.mark.parametrize("most", [16, 64])
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), rows=st.integers(1, 16), allowance=st.sampled_from([None, 20, 256]))
def test_whatever_comes_and_goes_each_is_answered_as_alone(
    model: Any, method: str, most: int, data: st.DataObject, rows: int, allowance: int | None
) -> None:
    asked = data.draw(st.lists(requests, min_size=most // 4, max_size=most))
    streams: list[tuple[Stream, dict[str, Any]]] = []
    memory = data.draw(st.sampled_from(["2MiB", "40MiB"]))
    with prefixkv.Engine(model, method, memory, most_rows=rows, allowance=allowance) as engine:
        for request in asked:
            if method == "full" and request["budget"] == "24KiB":
                request["budget"] = "20%"
            # Its arrival: when the one before has given so many tokens.
            for _ in range(request["awaits"] if streams else 0):
                next(streams[-1][0], None)
            stream = engine.submit(
                request["inputs"], request["budget"], request["sampling"], stop_tokens=request["stops"]
            )
            streams.append((stream, request))
            after = request["cancelled_after"]
            for _ in range(after or 0):
                next(stream, None)
            if after is not None:
                stream.cancel()
        found = [stream.result(120) for stream, _ in streams]
    assert engine.reserved_bytes == engine.prefix_bytes == engine.running == 0
    for tokens, (stream, request) in zip(found, streams, strict=True):
        expected = _alone(model, request["inputs"], request["budget"], method, request["sampling"], request["stops"])
        assert tokens == expected[: len(tokens)]
        assert stream.finish_reason == "cancelled" or tokens == expected


def _state(model: Any) -> dict[str, Any]:
    """Every attribute of every module, its hooks among them, and what its configurations say."""
    found: dict[str, Any] = {
        "config": model.config.to_dict(),
        "attention": [part.config._attn_implementation for part in model.modules() if hasattr(part, "config")],
        "generation": model.generation_config.to_dict(),
    }
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            whole = {key: id(part) for key, part in value.items()} if isinstance(value, Mapping) else value
            found[f"{name}.{attribute}"] = whole
    return found


@pytest.mark.filterwarnings("ignore:this forward pass does not use the compressed cache")
def test_32_threads_with_all_ways_to_ask_leave_the_model_as_it_was(model: Any) -> None:
    """`Engine`, two caches of `compress` in turns, and stock `generate`; two prompts in every thread."""
    asked = [(_inputs(1 + n % 3, 8 + 2 * n, n), _inputs(1 + n % 3, 9 + n, n + 100)) for n in range(THREADS)]
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}

    def stock(inputs: Any, **cache: Any) -> list[int]:
        # Without a mask, generate takes what looks like padding for padding.
        mask = torch.ones_like(inputs["input_ids"])
        tokens: torch.Tensor = model.generate(**inputs, attention_mask=mask, **options, **cache)
        return tokens[0, inputs["input_ids"].shape[1] :].tolist()

    def by_two_caches(pair: Any) -> list[list[int]]:
        with prefixkv.compress(model, "30%", "prefixkv") as first:
            with prefixkv.compress(model, "60%", "snapkv") as second:
                both = [stock(pair[1], **second.argument)]
            return [stock(pair[0], **first.argument), *both]

    def by_engine(pair: Any) -> list[list[int]]:
        streams = [engine.submit(inputs, "30%", Sampling(5)) for inputs in pair]
        return [stream.result(300) for stream in streams]

    ways: list[Callable[[Any], list[list[int]]]] = [by_engine, by_two_caches, lambda pair: [stock(one) for one in pair]]
    # Transformers leaves hooks of its own on a vision tower whose hidden states were once asked for.
    stock(asked[0][0])
    before = _state(model)
    with prefixkv.Engine(model, "h2o", "40MiB", most_rows=5) as engine:
        expected = [ways[n % 3](pair) for n, pair in enumerate(asked)]
    assert _state(model) == before
    found: list[Any] = [None] * THREADS
    together = threading.Barrier(THREADS)

    def ask(number: int) -> None:
        try:
            together.wait(60)
            found[number] = ways[number % 3](asked[number])
        except Exception as error:
            found[number] = error

    with prefixkv.Engine(model, "h2o", "40MiB", most_rows=5) as engine:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == expected
    assert _state(model) == before


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.* works without look-ahead")
def test_500_requests_of_32_threads_are_answered_as_alone(model: Any) -> None:
    """By the engines of three methods and by caches of `compress`, of random budgets and lengths, some cancelled."""
    random, engines = Random(17), ("guided", "h2o", "snapkv")
    asked: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
    requests, found = [], dict[int, Any]()
    for number in range(500):
        method = random.choice(engines) if random.random() < 0.7 else random.choice(list(METHODS))
        request = {
            "inputs": _inputs(random.choice((-1, 1, 2)), random.randint(1, 60), random.randrange(2**20)),
            "method": method,
            "budget": random.choice(
                ("100%", "50%", "20%", "5%") if method == "full" else ("60%", "20%", "5%", "24KiB")
            ),
            "sampling": Sampling(random.randint(1, 10), random.choice((0.0, 0.8)), seed=random.randrange(2**40)),
            "by_engine": method in engines and random.random() < 0.8,
            "cancelled_after": random.randint(0, 6) if random.random() < 0.2 else None,
        }
        requests.append(request)
        asked.put((number, request))

    def answer(request: dict[str, Any]) -> tuple[list[int], bool]:
        after = request["cancelled_after"]
        if request["by_engine"]:
            engine = running[request["method"]]
            stream = engine.submit(request["inputs"], request["budget"], request["sampling"], stop_tokens=STOPS)
            for _ in range(after or 0):
                next(stream, None)
            if after is not None:
                stream.cancel()
            tokens = stream.result(300)
            return tokens, stream.finish_reason != "cancelled"
        with prefixkv.compress(model, request["budget"], request["method"]) as cache:
            steps = decode(model, request["inputs"], cache, request["sampling"], STOPS)
            tokens = list(itertools.islice(steps, after))
            steps.close()
        return tokens, after is None

    def work() -> None:
        while True:
            try:
                number, request = asked.get_nowait()
            except queue.Empty:
                return
            try:
                found[number] = answer(request)
            except Exception as error:
                found[number] = error

    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(prefixkv.Engine(model, name, "40MiB", most_rows=6)) for name in engines}
        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, request in enumerate(requests):
        assert not isinstance(found[number], Exception), (number, request, found[number])
        tokens, is_whole = found[number]
        alone = _alone(model, request["inputs"], request["budget"], request["method"], request["sampling"], STOPS)
        assert tokens == (alone if is_whole else alone[: len(tokens)]), (number, request)
    assert sum(is_whole for _, is_whole in found.values()) > 300
