"""Special tokens in answers: left out, or kept but for what may not stand in a conversation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import prefixkv
from prefixkv.batch.lines import read_lines
from prefixkv.batch.results import ResultFile
from prefixkv.batch.run import Batch
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.generation.answer import AnswerWriter
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.special_tokens import left_out
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.loading import LoadedModel
from prefixkv.policy.budget import Budget

WORDS = ["Ġred", "Ġsquare", "Ġblue"]
"""Tokens of the vocabulary, as the model says them."""


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    """The demo model, three words of whose answers are special tokens."""
    loaded = prefixkv.load_model("demo", device="cpu")
    loaded.tokenizer.add_special_tokens({"extra_special_tokens": WORDS})
    return loaded


def test_marks_are_kept_and_ends_and_pictures_are_not(demo: LoadedModel) -> None:
    tokenizer, stops = demo.tokenizer, stop_tokens(demo)
    kept = left_out(demo.processor, stops, keep_marks=True)
    assert kept is not None
    assert stops <= kept
    assert tokenizer.convert_tokens_to_ids(demo.processor.image_token) in kept
    assert not kept & set(tokenizer.convert_tokens_to_ids(WORDS))
    assert left_out(demo.processor, stops, keep_marks=False) is None
    tokens = [*tokenizer("a red square", add_special_tokens=False)["input_ids"], *stops]
    for silent, said in ((None, "a"), (kept, "a red square")):
        writer = AnswerWriter(tokenizer, stops, (), silent)
        text = "".join(writer.push(token) for token in tokens) + writer.end()
        assert " ".join(text.split()) == said


def test_a_conversation_goes_on_behind_an_answer_with_marks(demo: LoadedModel) -> None:
    answers = []
    for keep_marks in (False, True):
        conversation = Conversation(demo, "100%", sampling=Sampling(max_new_tokens=20), keep_marks=keep_marks)
        conversation.attach(draw_scene(31).image)
        answers.append("".join(conversation.ask("Describe the image.")))
        "".join(conversation.ask("How many objects are there?"))
        assert len(conversation.history) == 2
    assert len(answers[1]) >= len(answers[0])


def test_a_mark_that_is_kept_ends_an_answer_at_once(demo: LoadedModel, tmp_path: Path) -> None:
    draw_scene(31).image.save(tmp_path / "a.png")
    asked = {"image": "a.png", "prompt": "Describe the image.", "stop": "blue"}
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(asked | {"keep_marks": kept}) for kept in (True, False)))
    batch = Batch(read_lines(tmp_path / "q.jsonl"), tmp_path, Budget.parse("100%"), "prefixkv", 20)
    results = ResultFile(tmp_path / "a.jsonl", batch.settings(demo))
    batch.run(demo, results, {})
    records = results.gather(batch.lines)
    for number, keep_marks in ((1, True), (2, False)):
        conversation = Conversation(demo, "100%", sampling=Sampling(20, stop=("blue",)), keep_marks=keep_marks)
        "".join(conversation.ask("Describe the image.", draw_scene(31).image))
        answer = conversation.last_answer
        assert answer is not None
        found = [records[number][name] for name in ("answer", "new_tokens", "finish_reason")]
        assert found == [answer.text, answer.new_tokens, answer.finish_reason]
    assert records[1]["new_tokens"] < records[2]["new_tokens"]
