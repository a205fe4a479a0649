"""Conversations as model inputs, with the chat templates and tokenizers that published models come with."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
from PIL import Image

import prefixkv
from prefixkv.errors import PrefixKVError
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.inputs.template_args import say_unused
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.loading import LoadedModel, load_model
from prefixkv.models.pretrained import chat_template

PICTURE = Image.new("RGB", (336, 336), "grey")


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load_model("demo", device="cpu")


@pytest.fixture
def processor(demo: LoadedModel) -> Any:
    """A copy of the demo's processor, whose template may be changed."""
    return copy.deepcopy(demo.processor)


def ids(processor: Any, question: str = "How many objects are there?", system: str = "") -> list[int]:
    return Prompt(processor, [Turn(question, (PICTURE,))], system).inputs["input_ids"][0].tolist()


def test_a_template_that_only_the_tokenizer_has_is_used(processor: Any) -> None:
    wanted = ids(processor)
    processor.tokenizer.chat_template, processor.chat_template = processor.chat_template, None
    assert ids(processor) == wanted
    processor.tokenizer.chat_template = {"default": processor.tokenizer.chat_template, "tool_use": "nothing"}
    assert ids(processor) == wanted


def test_a_template_for_plain_texts_gets_the_pictures_mark_in_the_text(processor: Any) -> None:
    processor.chat_template = "{% for m in messages %}{{ 'USER: ' + m['content'] + ' ASSISTANT:' }}{% endfor %}"
    text = Prompt(processor, [Turn("What is it?", (PICTURE,))])._render()
    assert text == f"USER: {processor.image_token}What is it? ASSISTANT:"


@pytest.mark.parametrize(
    "template",
    ["{% for m in messages %}{{ m['content' }}{% endfor %}", "{{ raise_exception('no such role') }}", "{{ 1 / 0 }}"],
)
def test_a_template_that_fails_is_one_line(processor: Any, template: str) -> None:
    processor.chat_template = template
    with pytest.raises(PrefixKVError, match="chat template does not take this conversation"):
        ids(processor)


def test_a_template_without_an_end_is_left(processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox bounds one loop, not a loop in a loop; the thread that ran it ends."""
    monkeypatch.setattr("prefixkv.inputs.rendering.TEMPLATE_SECONDS", 0.3)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    processor.chat_template = f"{loops}{processor.chat_template}"
    with pytest.raises(PrefixKVError, match=r"template was not done after 0\.3 s: it is another model's, or broken"):
        ids(processor)
    for thread in threading.enumerate():
        if thread.name == "time limit":
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("power", ["{{ 9**9**9 }}", "{% if false %}\n{{ messages|length ** 2 }}{% endif %}"])
def test_a_template_with_a_power_is_not_run(processor: Any, power: str) -> None:
    """A thread cannot be told to leave one instruction, and what is constant would be computed by the compiler."""
    processor.chat_template = f"{power}{processor.chat_template}"
    with pytest.raises(PrefixKVError, match=r"template computes a power \(\*\*\) in line [12]: it is another model's"):
        ids(processor)
    notices: list[str] = []
    say_unused({"messages": 1, "other": 1}, processor, notices.append)
    assert notices == ["the model's chat template does not use 'other': --template-arg other changes nothing"]


@pytest.mark.parametrize("question", [3, b"How many?", None, ["How many?"]])
def test_a_question_that_is_no_text_is_one_line(demo: LoadedModel, question: Any) -> None:
    conversation = prefixkv.Conversation(demo)
    with pytest.raises(PrefixKVError, match="which is no text: give a str"):
        next(conversation.ask(question))
    with pytest.raises(PrefixKVError, match="which is no text: give a str"):
        conversation.instruct(question)
    assert conversation.last_answer is None


def test_system_text_that_is_refused_trimmed_or_taken(processor: Any) -> None:
    question = [Turn("")]
    takes = "{% for m in messages %}{{ m['role'] }}: {{ m['content'][0]['text'] }}\n{% endfor %}"
    processor.chat_template = takes
    assert Prompt(processor, question, "Be short. ").shows_system()
    processor.chat_template = takes.replace("['text']", "['text'] | trim")
    assert Prompt(processor, question, "Be short. ").shows_system()
    processor.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'][0]['text'] }}{% endif %}{% endfor %}"
    )
    assert not Prompt(processor, question, "Be short.").shows_system()


@pytest.mark.parametrize("place", ["question", "system", "answer"])
def test_the_mark_of_a_picture_in_a_text_is_refused(processor: Any, place: str) -> None:
    text = f"What does the tag {processor.image_token} do?"
    turns = [Turn(text if place == "question" else "?", (PICTURE,), text if place == "answer" else None)]
    with pytest.raises(PrefixKVError, match="mark of a picture"):
        Prompt(processor, turns, text if place == "system" else "")


def test_bytes_that_are_no_text_are_refused(processor: Any) -> None:
    with pytest.raises(PrefixKVError, match="no UTF-8"):
        ids(processor, b"caf\xe9".decode(errors="surrogateescape"))


def test_what_a_tokenizer_adds_is_there_once_and_never_behind_the_prompt(processor: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = processor.tokenizer
    wanted = ids(processor)
    first, last = wanted[0], tokenizer.eos_token_id
    names = [(tokenizer.convert_ids_to_tokens(token), token) for token in (first, last)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{names[0][0]} $A {names[1][0]}", special_tokens=names
    )
    assert ids(processor) == wanted


def test_every_end_that_is_named_ends_an_answer(demo: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    own = demo.tokenizer.eos_token_id
    for named, ends in ((None, {own}), (7, {7, own}), ([7, 8], {7, 8, own})):
        monkeypatch.setattr(demo.model.generation_config, "eos_token_id", named)
        assert stop_tokens(demo) == ends
    monkeypatch.setattr(demo.tokenizer, "_special_tokens_map", {})
    monkeypatch.setattr(demo.model.generation_config, "eos_token_id", None)
    assert stop_tokens(demo) == set()


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("hello <image>", "leaves the question out"),
        (
            "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}",
            "the pictures out",
        ),
        ("  ", "leaves the pictures out"),
    ],
)
def test_a_template_of_another_model_is_no_template(processor: Any, template: str, says: str) -> None:
    processor.chat_template = template
    with pytest.raises(PrefixKVError, match=says):
        Prompt(processor, [Turn("How many?", (PICTURE,))])


def test_a_template_with_white_space_of_its_own_has_the_question(processor: Any) -> None:
    processor.chat_template = (
        "{% for m in messages %}<image>{{ m['content'][1]['text'].split() | join(' ') }}{% endfor %}"
    )
    Prompt(processor, [Turn("How \n many?", (PICTURE,))])


def test_no_template_anywhere_is_none(processor: Any) -> None:
    assert chat_template(processor)
    processor.chat_template = processor.tokenizer.chat_template = None
    assert chat_template(processor) is None


def test_a_template_that_prints_the_parts_gets_plain_texts(processor: Any) -> None:
    processor.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}ASSISTANT:"
    text = Prompt(processor, [Turn("What is it?", (PICTURE,), "a cat"), Turn("Why?")], "Be short.")._render()
    assert text == (
        f"system: Be short. user: {processor.image_token}What is it? assistant: a cat user: Why? ASSISTANT:"
    )


def test_a_template_that_reads_lists_for_questions_only(processor: Any) -> None:
    processor.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{% for part in m['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "{% else %}{{ m['content'] + '\\n' }}{% endif %}{% endfor %}"
    )
    assert Prompt(processor, [Turn("What?", (PICTURE,))], "Be short.")._render() == "Be short.\n<image>What?"


@pytest.mark.parametrize("name", ["boi_token", "video_token", "image_start_token", "vision_bos_token"])
def test_every_mark_of_pictures_and_films_is_refused_in_a_text(processor: Any, name: str) -> None:
    setattr(processor, name, "<|mark|>")
    with pytest.raises(PrefixKVError, match="mark of a picture"):
        Prompt(processor, [Turn("What does <|mark|> mean?", (PICTURE,))])
