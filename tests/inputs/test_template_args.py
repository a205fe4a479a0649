"""Arguments for chat templates: what they may be, and what is said of those that change nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from PIL import Image

from prefixkv.errors import OptionError
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.inputs.template_args import check_template_args, parse_template_args, say_unused
from prefixkv.models.loading import load_model

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if enable_thinking %}<think>{% endif %}"
    "{% generation %}{{ tone }}{% endgeneration %}"
)


@pytest.fixture(scope="module")
def processor() -> Any:
    processor = copy.deepcopy(load_model("demo", device="cpu").processor)
    processor.chat_template = TEMPLATE
    return processor


def test_values_are_json_where_they_are_and_texts_otherwise() -> None:
    texts = ["a=false", "b=3", "c=[1, 2]", "d=short", 'e="4"', "f=", "g=x=y", "h=NaN", "i=1e999", "j=" + "[" * 9_000]
    found = parse_template_args(texts)
    assert (found["a"], found["b"], found["c"]) == (False, 3, [1, 2])
    assert [found[name] for name in "defghi"] == ["short", "4", "", "x=y", "NaN", "1e999"]
    assert found["j"] == "[" * 9_000


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["enable_thinking"], "has no value"),
        (["=1"], "is no name"),
        (["a b=1"], "is no name"),
        (["a=1", "a=2"], "given twice"),
        *(
            ([f"{name}=1"], "the program itself")
            for name in ("messages", "tokenize", "return_tensors", "chat_template")
        ),
    ],
)
def test_what_can_be_no_argument_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_template_args(texts)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x", "x" * 10_001])
def test_a_value_that_a_context_cannot_keep_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="JSON"):
        check_template_args({"a": value})


def test_the_template_sees_them(processor: Any) -> None:
    turns = [Turn("What?", (Image.new("RGB", (336, 336)),))]
    told = [
        Prompt(processor, turns, "", arguments)._render() for arguments in ({}, {"enable_thinking": True, "tone": 7})
    ]
    assert told[1] == told[0] + "<think>7"


def test_those_that_the_template_does_not_use_are_said(processor: Any) -> None:
    said: list[str] = []
    say_unused({"enable_thinking": False, "tone": "dry", "thinking": False}, processor, said.append)
    assert len(said) == 1
    assert "'thinking'" in said[0]
