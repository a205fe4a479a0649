"""Requests that run together on a GPU: in float32 each is answered as it is alone; who leaves frees its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.generation.sampling import Sampling
from prefixkv.models.loading import LoadedModel
from tests.gpu.device import DTYPES

pytestmark = pytest.mark.gpu

QUESTIONS = ("Describe the image.", "How many red objects are there?", "Which object is in row 2, column 2?")
BUDGETS = ("100%", "50%", "20%", "5%")
ASKED = [(11 + number // 3, QUESTIONS[number % 3], BUDGETS[number % 4], 4 + 3 * number) for number in range(20)]
"""Scene, question, budget and longest answer of each request."""


def inputs_for(loaded: LoadedModel, question: str, seed: int) -> Any:
    processor: Any = loaded.processor
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    return processor(text=text, images=draw_scene(seed).image, return_tensors="pt")


@pytest.mark.parametrize("method", ["guided", "h2o", "prefixkv", "snapkv"])
def test_ragged_requests_that_come_and_go_are_answered_as_alone(
    demo: Callable[[str], LoadedModel], method: str
) -> None:
    loaded = demo("float32")
    expected = []
    for seed, question, budget, tokens in ASKED:
        talk = Conversation(loaded, budget, method, Sampling(max_new_tokens=tokens))
        talk.attach(draw_scene(seed).image)
        expected.append("".join(talk.ask(question)))
    with prefixkv.Engine(loaded, method, "2GiB", most_rows=6) as engine:
        streams = []
        for number, (seed, question, budget, tokens) in enumerate(ASKED):
            prompt = inputs_for(loaded, question, seed)
            streams.append(engine.submit(prompt, budget, Sampling(max_new_tokens=tokens)))
            if number % 5 == 0:
                # One more, which goes in the middle of its answer.
                leaving = engine.submit(prompt, budget, Sampling(max_new_tokens=200))
                next(leaving)
                leaving.cancel()
        found = [loaded.tokenizer.decode(stream.result(120), skip_special_tokens=True) for stream in streams]
    assert [text.strip() for text in found] == [text.strip() for text in expected]
    assert engine.reserved_bytes == engine.running == 0


def test_what_a_row_held_at_its_end_does_not_depend_on_who_was_there(demo: Callable[[str], LoadedModel]) -> None:
    """Also where its end token was noticed after a further step had been queued."""
    loaded = demo("float32")
    usages = []
    for rows in (1, 3, 6):
        with prefixkv.Engine(loaded, "h2o", "2GiB", most_rows=rows) as engine:
            streams = [
                engine.submit(inputs_for(loaded, question, seed), budget, Sampling(max_new_tokens=100))
                for seed, question, budget, _ in ASKED[:12]
            ]
            for stream in streams:
                stream.result(120)
        usages.append([(stream.finish_reason, stream.usage) for stream in streams])
    assert "stop" in {reason for reason, _ in usages[0]}
    assert usages[1] == usages[0]
    assert usages[2] == usages[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_request_with_a_seed_is_answered_again(demo: Callable[[str], LoadedModel], dtype: str) -> None:
    loaded = demo(dtype)
    prompt = inputs_for(loaded, QUESTIONS[0], 11)
    sampling = Sampling(max_new_tokens=30, temperature=1.0, seed=7)
    with prefixkv.Engine(loaded, memory="1GiB") as engine:
        first, second = (engine.submit(prompt, "20%", sampling).result(60) for _ in range(2))
    assert first == second
