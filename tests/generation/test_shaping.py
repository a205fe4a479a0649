"""What generation_config.json asks for is followed as by stock `generate`, on every path to an answer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache, WatermarkingConfig

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.engine.decoding import decode_rows
from prefixkv.evaluation.cells import REFERENCE
from prefixkv.evaluation.exercise import Exercise
from prefixkv.evaluation.measure import Measuring
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import Shaping, shaping_of
from prefixkv.generation.stop_text import before_stop
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.generation_settings import ENDS, PROCESSED
from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import cache_argument
from tests import tiny

QUESTION, TOKENS = "Describe the image.", 12
IMAGE = draw_scene(31).image
ON_TINY = {"forced_bos_token_id": 7, "remove_invalid_values": True}
"""A prompt of one token, and logits that are no numbers, which a conversation on the demo model does not have."""


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.fixture(autouse=True)
def untouched(demo: LoadedModel) -> Iterator[None]:
    before = copy.deepcopy(demo.model.generation_config)
    yield
    demo.model.generation_config = before


def prompt(demo: LoadedModel) -> Prompt:
    return Prompt(demo.processor, [Turn(QUESTION, (IMAGE,))])


def stock(demo: LoadedModel, **options: Any) -> list[int]:
    """The answer's tokens by `generate` alone."""
    inputs = prompt(demo).inputs
    out = demo.model.generate(**inputs, **options, max_new_tokens=TOKENS, do_sample=False, tokenizer=demo.tokenizer)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def text(demo: LoadedModel, tokens: list[int]) -> str:
    stops = demo.model.generation_config.stop_strings or []
    return before_stop(demo.tokenizer.decode(tokens, skip_special_tokens=True), stops).strip()


def a_value(demo: LoadedModel, attribute: str, usual: list[int]) -> Any:
    """One that changes the answer, which is `usual` without it."""
    end = demo.model.generation_config.eos_token_id
    ends = end if isinstance(end, list) else [end]
    return {
        "bad_words_ids": [[usual[1]]],
        "begin_suppress_tokens": [usual[0]],
        "encoder_no_repeat_ngram_size": 1,
        "encoder_repetition_penalty": 50.0,
        "exponential_decay_length_penalty": [3, 4.0],
        "forced_eos_token_id": ends[0],
        "min_length": prompt(demo).tokens + TOKENS - 1,
        "min_new_tokens": TOKENS - 1,
        "no_repeat_ngram_size": 1,
        "repetition_penalty": 5.0,
        "sequence_bias": [[[usual[0]], -100.0]],
        "suppress_tokens": [usual[2]],
        "watermarking_config": WatermarkingConfig(bias=60.0),
        "eos_token_id": [*ends, usual[2]],
        "stop_strings": [text(demo, usual)[4:8]],
    }[attribute]


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("attribute", sorted({*PROCESSED, *ENDS} - ON_TINY.keys()))
def test_an_attribute_changes_every_answer_as_it_changes_that_of_stock_generate(
    demo: LoadedModel, attribute: str
) -> None:
    if attribute in ("min_length", "min_new_tokens"):
        demo.model.generation_config.eos_token_id = [demo.tokenizer.eos_token_id, *range(3, 600, 3)]
    usual = stock(demo)
    setattr(demo.model.generation_config, attribute, a_value(demo, attribute, usual))
    expected = stock(demo)
    assert expected != usual
    with prefixkv.compress(demo.model, "100%") as cache:
        assert stock(demo, **cache.argument) == expected
    with prefixkv.Engine(demo) as engine:
        # A row beside others that ask for other things.
        streams = [engine.submit(prompt(demo), "100%", Sampling(TOKENS, seed=1)) for _ in range(2)]
        assert [stream.result(60) for stream in streams] == [expected] * 2
    conversation = Conversation(demo, "100%", sampling=Sampling(TOKENS))
    assert "".join(conversation.ask(QUESTION, IMAGE)).strip() == text(demo, expected)
    assert conversation.last_answer is not None
    assert conversation.last_answer.new_tokens == len(expected)
    measuring = Measuring(demo, ["accuracy"], TOKENS)
    assert measuring.sample(Exercise(prompt(demo).inputs), "", [])[REFERENCE]["answer"] == text(demo, expected)


@pytest.mark.parametrize("attribute", sorted(ON_TINY))
def test_an_attribute_for_odd_prompts_and_logits_is_followed_too(attribute: str) -> None:
    model = tiny.llama()
    inputs = {"input_ids": torch.tensor([[5]])}
    if attribute == "remove_invalid_values":
        model.lm_head.weight.data[11] = torch.nan

    def answer(**options: Any) -> list[int]:
        return model.generate(**inputs, **options, max_new_tokens=6, do_sample=False)[0, 1:].tolist()

    usual = answer(**cache_argument(DynamicCache(config=model.config)))
    setattr(model.generation_config, attribute, ON_TINY[attribute])
    expected = answer(**cache_argument(DynamicCache(config=model.config)))
    assert expected != usual
    with prefixkv.compress(model, "100%") as cache:
        assert answer(**cache.argument) == expected
    with prefixkv.Engine(model) as engine:
        assert engine.submit(inputs, "100%", Sampling(6)).result(60) == expected


def test_rows_are_shaped_each_by_its_own_tokens() -> None:
    model = tiny.llama()
    model.generation_config.no_repeat_ngram_size = 1
    ids = tiny.text(30, batch=3)
    together: list[list[int]] = []
    shapings: list[Shaping | None] = [shaping_of(model, ids[row : row + 1], 9) for row in range(3)]
    shapings[1] = None
    with prefixkv.compress(model, "100%") as cache:
        together = list(decode_rows(model, {"input_ids": ids}, cache, Sampling(9), shapings=shapings))
    with prefixkv.compress(model, "100%") as cache:
        stock = model.generate(ids, **cache.argument, max_new_tokens=9, do_sample=False)[:, 30:].tolist()
    rows = [list(row) for row in zip(*together, strict=True)]
    assert [rows[0], rows[2]] == [stock[0], stock[2]]
    assert rows[1] != stock[1]


def test_a_second_turn_is_shaped_by_the_whole_conversation(demo: LoadedModel) -> None:
    """Also by what an earlier turn has read: the prompt is the whole of it for stock `generate`."""
    demo.model.generation_config.encoder_no_repeat_ngram_size = 2
    talk = Conversation(demo, "100%", sampling=Sampling(TOKENS))
    first = "".join(talk.ask(QUESTION, IMAGE)).strip()
    second = "".join(talk.ask(QUESTION)).strip()
    turns = [Turn(QUESTION, (IMAGE,), first), Turn(QUESTION)]
    inputs = Prompt(demo.processor, turns).inputs
    out = demo.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    assert second == text(demo, out[0, inputs["input_ids"].shape[1] :].tolist())
