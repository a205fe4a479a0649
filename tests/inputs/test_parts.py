"""Questions of texts and pictures in any order, and templates that can or cannot tell them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from PIL import Image

from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.inputs.parts import read_parts
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.loading import load_model

ONE, TWO = Image.new("RGB", (336, 336), "red"), Image.new("RGB", (336, 336), "blue")
LAYOUT = ("Compare ", None, " with ", None, ": which is darker?")
IN_ORDER = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %} {% endfor %}"
)
PICTURES_FIRST = (
    "{% for m in messages %}{% for p in m['content'] if p['type'] == 'image' %}<image>{% endfor %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] }}{% endfor %}{% endfor %}"
)
LAST_TEXT = (
    "{% for m in messages %}{% for p in m['content'] if p['type'] == 'image' %}<image>{% endfor %}"
    "{{ m['content'][-1]['text'] }}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ 'USER: ' + m['content'] + ' ' }}{% endfor %}"


@pytest.fixture
def processor() -> Any:
    return copy.deepcopy(load_model("demo", device="cpu").processor)


def turn() -> Turn:
    return Turn("Compare with : which is darker?", (ONE, TWO), layout=LAYOUT)


@pytest.mark.parametrize("template", [IN_ORDER, PLAIN])
def test_pictures_stand_where_they_were_put(processor: Any, template: str) -> None:
    processor.chat_template = template
    prompt = Prompt(processor, [Turn("Hello.", answer="Yes?"), turn()])
    assert "Compare <image> with <image>: which is darker?" in prompt._render()
    ids = prompt.inputs["input_ids"][0]
    places = (ids == processor.image_token_id).nonzero()[:, 0]
    assert (places.diff() > 1).sum() == 1
    assert prompt.end_of_pictures(processor.image_token_id) == int(places[-1]) + 1


def test_a_base_model_gets_its_marks_between_the_texts(processor: Any) -> None:
    processor.chat_template = processor.tokenizer.chat_template = None
    assert Prompt(processor, [turn()])._render() == "Compare <image> with <image>: which is darker?"


@pytest.mark.parametrize("template", [PICTURES_FIRST, LAST_TEXT])
def test_a_template_that_moves_or_drops_parts_is_refused(processor: Any, template: str) -> None:
    processor.chat_template = template
    with pytest.raises(PrefixKVError, match="no place for pictures between texts"):
        Prompt(processor, [turn()])
    first = Turn("What?", (ONE, TWO), layout=(None, None, "What?"))
    assert Prompt(processor, [first])._render() == Prompt(processor, [Turn("What?", (ONE, TWO))])._render()


def test_only_the_first_pictures_of_a_question() -> None:
    assert turn().with_first_images(1).content == ("Compare ", None, " with ", ": which is darker?")
    assert turn().with_first_images(0).images == ()
    assert Turn("What?", (ONE, TWO)).with_first_images(1).content == (None, "What?")


def test_parts_in_every_style() -> None:
    found = read_parts(
        [
            {"text": "a"},
            {"type": "text", "text": " b"},
            {"image": "x.png"},
            {"type": "image", "path": "y.png"},
            {"type": "image", "url": "https://example.org/z.png"},
            {"type": "image_url", "image_url": {"url": "data:,"}},
            {"image": ONE},
        ]
    )
    assert found.layout == ("a", " b", None, None, None, None, None)
    assert found.pictures == ("x.png", "y.png", "https://example.org/z.png", "data:,", ONE)
    assert found.prompt == "a b"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("text", "give a list"),
        ([], "no text"),
        ([{"image": "x.png"}], "no text"),
        ([{"text": " "}], "no text"),
        (["text"], "part 1 is 'text'"),
        ([{"text": "a"}, {"type": "video", "video": "x"}], "part 2 has the type 'video'"),
        ([{"text": "a", "image": "x.png"}], "neither a text nor one picture"),
        ([{"text": 3}], "neither a text nor one picture"),
        ([{"text": "a"}, {"type": "image"}], "part 2 is neither"),
        ([{"text": "a"}, {"type": "image_url", "image_url": {}}], "part 2 is neither"),
    ],
)
def test_what_is_no_list_of_parts_is_refused(parts: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        read_parts(parts)
