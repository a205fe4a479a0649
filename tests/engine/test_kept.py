"""A conversation's later prompts go on from the cache that its earlier turns have left, and from nobody else's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.engine.stream import Stream
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.generation.answer import AnswerWriter
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.loading import LoadedModel
from tests.families import tiny_models
from tests.families.checks import loaded as as_loaded
from tests.families.tiny_models import PICTURES

QUESTIONS = ("Describe the image.", "How many objects are there?", "How many red objects are there?")
SHORT = Sampling(max_new_tokens=30)
TINY_QUESTIONS = ("ba ce di", "fo ga", "ha ce ba di")


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


def text_of(loaded: LoadedModel, tokens: list[int]) -> str:
    writer = AnswerWriter(loaded.tokenizer, stop_tokens(loaded))
    for token in tokens:
        writer.push(token)
    writer.end()
    return writer.text


def asked(engine: Any, loaded: LoadedModel, turns: list[Turn], budget: str = "20%", **options: Any) -> Stream:
    """Ask the last of some turns and note its answer."""
    stream: Stream = engine.submit(Prompt(loaded.processor, turns), budget, SHORT, keep=True, **options)
    turns[-1].answer = text_of(loaded, stream.result(120))
    return stream


def talk(engine: Any, loaded: LoadedModel, questions: Any, picture: Any, budget: str, **options: Any) -> list[Any]:
    turns: list[Turn] = []
    cached = []
    for number, question in enumerate(questions):
        turns.append(Turn(question, () if number else (picture,)))
        cached.append(asked(engine, loaded, turns, budget, **options).cached_tokens)
    return [[turn.answer for turn in turns], cached]


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(
    ("method", "codec", "budget"),
    [("prefixkv", "auto", "20%"), ("guided", "int4", "10%"), ("h2o", "auto", "1MiB")],
)
def test_three_turns_are_those_of_chat(demo: LoadedModel, method: str, codec: str, budget: str) -> None:
    picture = draw_scene(31).image
    chat = Conversation(demo, budget, method, SHORT, codec=codec)
    chat.attach(picture)
    expected = ["".join(chat.ask(question)) for question in QUESTIONS]
    with prefixkv.Engine(demo, "full", "40MiB") as engine:
        answers, cached = talk(engine, demo, QUESTIONS, picture, budget, method=method, codec=codec)
        assert answers == expected
        assert cached[0] == 0
        assert cached[1] > 100
        assert cached[2] > cached[1]
        assert engine.reserved_bytes == engine.kept.bytes > 0
        assert (len(engine.kept), engine.kept.continued) == (3, 2)
    assert engine.reserved_bytes == 0


@pytest.mark.exhaustive
def test_a_cache_is_for_its_own_conversation(demo: LoadedModel) -> None:
    picture, other = draw_scene(31).image, draw_scene(32).image
    with prefixkv.Engine(demo, memory="40MiB") as engine:
        first = [Turn(QUESTIONS[0], (picture,))]
        asked(engine, demo, first, owner="a")
        again = Turn(QUESTIONS[1])
        assert asked(engine, demo, [*first, again], owner="a").cached_tokens > 0
        # The first turn's cache is there still: its next question may be another one.
        branch = Turn(QUESTIONS[2])
        assert asked(engine, demo, [*first, branch], owner="a").cached_tokens > 0
        chat = Conversation(demo, sampling=SHORT)
        chat.attach(picture)
        assert [first[0].answer, branch.answer] == ["".join(chat.ask(q)) for q in (QUESTIONS[0], QUESTIONS[2])]
        for options in ({"owner": "b"}, {"owner": "a", "method": "h2o"}, {"owner": "a", "budget": "30%"}):
            assert asked(engine, demo, [*first, Turn(QUESTIONS[1])], **options).cached_tokens == 0
        changed = Turn(QUESTIONS[0], (other,), first[0].answer)
        assert asked(engine, demo, [changed, Turn(QUESTIONS[1])], owner="a").cached_tokens == 0
        otherwise = Turn("How many objects are there?", (picture,), first[0].answer)
        assert asked(engine, demo, [otherwise, Turn(QUESTIONS[1])], owner="a").cached_tokens == 0
        with pytest.raises(PrefixKVError, match="give a Prompt"):
            engine.submit({"input_ids": torch.tensor([[5, 6]])}, keep=True)


@pytest.mark.exhaustive
def test_the_least_recently_used_cache_goes_first(demo: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [[Turn(QUESTIONS[1], (draw_scene(31 + number).image,))] for number in range(5)]
    with prefixkv.Engine(demo, memory="40MiB") as engine:
        asked(engine, demo, turns[0])
        one = engine.kept.bytes
        need = engine.footprint(Prompt(demo.processor, turns[0]).tokens, "20%", 30).most
        # Of the memory, a part that holds three caches.
        monkeypatch.setattr("prefixkv.engine.kept.KEPT_SHARE", int(engine.memory_bytes // (3.5 * one)))
        asked(engine, demo, turns[1])
        asked(engine, demo, turns[2])
        assert asked(engine, demo, [*turns[0], Turn(QUESTIONS[2])]).cached_tokens > 0
        asked(engine, demo, turns[3])
        assert len(engine.kept) == 3
        assert asked(engine, demo, [*turns[1], Turn(QUESTIONS[2])]).cached_tokens == 0
        assert asked(engine, demo, [*turns[3], Turn(QUESTIONS[2])]).cached_tokens > 0
    # What is kept goes where a request could not begin beside it.
    with prefixkv.Engine(demo, memory=need + one // 2) as engine:
        monkeypatch.setattr("prefixkv.engine.kept.KEPT_SHARE", 1)
        for each in turns[:2]:
            asked(engine, demo, [Turn(each[0].prompt, each[0].images)])
            assert engine.reserved_bytes == engine.kept.bytes <= engine.memory_bytes
            assert len(engine.kept) == 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "gemma3", "internvl", "idefics3", "paligemma"])
def test_families_go_on_as_in_chat(family: str) -> None:
    loaded = as_loaded(getattr(tiny_models, family)())
    chat = Conversation(loaded, "40%", "h2o", SHORT)
    chat.attach(PICTURES[0])
    expected = ["".join(chat.ask(question)) for question in TINY_QUESTIONS]
    with prefixkv.Engine(loaded, "h2o", "80MiB") as engine:
        answers, _ = talk(engine, loaded, TINY_QUESTIONS, PICTURES[0], "40%")
    assert answers == expected


def test_probabilities_are_those_of_the_models_logits(demo: LoadedModel) -> None:
    prompt = Prompt(demo.processor, [Turn(QUESTIONS[0], (draw_scene(31).image,))])
    with prefixkv.Engine(demo, "full", "40MiB") as engine:
        streams = [
            engine.submit(prompt, "100%", Sampling(8, logprobs=count, temperature=heat, seed=3))
            for count, heat in ((3, 0.0), (0, 0.0), (None, 0.0), (2, 1.5))
        ]
        tokens = [stream.result(60) for stream in streams]
    with torch.no_grad():
        for stream, said in zip(streams, tokens, strict=True):
            ids = torch.cat([prompt.inputs["input_ids"], torch.tensor([said[:-1]])], dim=1)
            logits = demo.model(**{**prompt.inputs, "input_ids": ids}).logits[0, -len(said) :].float()
            expected = logits.log_softmax(dim=-1)
            for place, found in enumerate(stream.logprobs):
                assert math.isclose(found.chosen, float(expected[place, said[place]]), abs_tol=1e-4)
                ranked = [token for token, _ in found.likeliest]
                assert ranked == expected[place].topk(len(ranked)).indices.tolist()
    assert [len(stream.logprobs[0].likeliest) if stream.logprobs else None for stream in streams] == [3, 0, None, 2]
    assert [len(stream.logprobs) for stream in streams] == [8, 8, 0, 8]
    with pytest.raises(OptionError, match="logprobs 21"):
        Sampling(logprobs=21)
