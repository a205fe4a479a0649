"""Conversations on the demo model: answers, later turns, interruptions, and equality with stock generate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend
from transformers import DynamicCache

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.chat.reading import PICTURE
from prefixkv.demo.questions import KINDS, question_set
from prefixkv.demo.scenes import draw_scene
from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import METHODS
from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import cache_argument

THREE_TURNS = ("How many objects are there?", "How many red objects are there?", "Describe the image.")


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


def said(conversation: Conversation, prompt: str, *images: Any) -> str:
    return "".join(conversation.ask(prompt, images)).strip()


def stock_answers(loaded: LoadedModel, image: Any, prompts: tuple[str, ...], new_tokens: int = 512) -> list[str]:
    """The same turns through transformers alone: its template, its cache, its generate."""
    cache, messages, answers = DynamicCache(config=loaded.model.config), [], []
    for prompt in prompts:
        parts = [{"type": "text", "text": prompt}]
        messages.append({"role": "user", "content": parts if messages else [{"type": "image"}, *parts]})
        text = loaded.processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = loaded.processor(text=text, images=image, return_tensors="pt")
        if answers:
            inputs.pop("pixel_values")
        out = loaded.model.generate(**inputs, **cache_argument(cache), max_new_tokens=new_tokens, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        answers.append(loaded.processor.decode(new, skip_special_tokens=True).strip())
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answers[-1]}]})
    return answers


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("method", METHODS)
def test_three_turns_equal_stock_on_the_whole_cache(demo: LoadedModel, method: str) -> None:
    image = draw_scene(31).image
    notices: list[str] = []
    conversation = Conversation(demo, "100%", method, Sampling(max_new_tokens=40), notify=notices.append)
    answers = [said(conversation, prompt, *([image] if turn == 0 else [])) for turn, prompt in enumerate(THREE_TURNS)]
    assert answers == stock_answers(demo, image, THREE_TURNS, new_tokens=40)
    assert notices == []


@pytest.mark.exhaustive
def test_every_kind_of_question_equals_stock(demo: LoadedModel) -> None:
    asked = {question.kind: (scene, question) for scene, question in question_set(2 * len(KINDS), seed=404)}
    assert len(asked) == len(KINDS)
    for scene, question in asked.values():
        prompts = (*(earlier for earlier, _ in question.context), question.question)
        conversation = Conversation(demo, "100%")
        ours = [said(conversation, prompt, *([] if turn else [scene.image])) for turn, prompt in enumerate(prompts)]
        assert ours == stock_answers(demo, scene.image, prompts)


def test_a_fifth_of_the_cache_is_a_fifth(demo: LoadedModel) -> None:
    conversation = Conversation(demo, "20%", "prefixkv")
    said(conversation, "Describe the image.", draw_scene(8).image)
    usage = conversation.usage()
    assert usage.kept_bytes <= 0.2 * usage.full_bytes
    # In float32 what is allocated is twice of that, and what is noted of each entry.
    assert usage.allocated_bytes <= 0.43 * usage.full_bytes + demo.geometry.token_bytes
    assert len({layer.kept_tokens for layer in usage.layers}) > 3


@pytest.mark.exhaustive
@pytest.mark.parametrize(("method", "share"), [("prefixkv", 0.4), ("guided", 0.1)])
def test_hard_limit_holds_through_a_long_answer(demo: LoadedModel, method: str, share: float) -> None:
    """200 new tokens on a share of the full cache's bytes, looked at after every piece of text.

    The limit is made use of: while there is room, which there is again when entries were packed anew in fewer bits, no
    layer evicts.
    """
    image = draw_scene(8).image
    prompt_tokens = 600
    limit = int(share * prompt_tokens * demo.geometry.token_bytes)
    sampling = Sampling(max_new_tokens=200, temperature=3.0, seed=1)
    conversation = Conversation(demo, f"{limit}B", method, sampling)
    tokens = most = 0
    while tokens < 200:
        evicted = None
        for _ in conversation.ask("Describe the image.", [] if tokens else [image]):
            usage = conversation.usage()
            assert usage.allocated_bytes <= limit
            before, evicted = evicted, sum(layer.seen_tokens - layer.kept_tokens for layer in usage.layers)
            assert before in (None, evicted) or usage.allocated_bytes > 0.95 * limit
            most = max(most, usage.allocated_bytes)
        assert conversation.last_answer is not None
        tokens += conversation.last_answer.new_tokens
    assert most > 0.95 * limit


def test_later_turns_read_only_what_is_new(demo: LoadedModel) -> None:
    conversation = Conversation(demo, "50%")
    said(conversation, "How many objects are there?", draw_scene(5).image)
    first = conversation.usage().layers[0].seen_tokens
    said(conversation, "How many red objects are there?")
    assert conversation.usage().layers[0].seen_tokens - first < 40
    assert conversation.last_answer is not None
    assert conversation.last_answer.prompt_tokens > first


def test_stopped_answer_is_kept_and_the_conversation_goes_on(demo: LoadedModel) -> None:
    image = draw_scene(6).image
    conversation = Conversation(demo, "100%")
    answer = conversation.ask("Describe the image.", [image])
    pieces = [next(answer) for _ in range(5)]
    answer.close()
    assert conversation.last_answer is not None
    assert conversation.last_answer.finish_reason == "interrupted"
    assert conversation.last_answer.text == "".join(pieces).strip()
    assert said(conversation, "How many objects are there?") == str(len(draw_scene(6).objects))


def test_an_exception_inside_a_step_costs_only_that_question(
    demo: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = draw_scene(6).image
    conversation = Conversation(demo, "100%")
    said(conversation, "How many objects are there?", image)
    calls = []

    def fail(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    hook = demo.model.model.language_model.layers[3].register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(KeyboardInterrupt):
        said(conversation, "Describe the image.")
    hook.remove()
    assert demo.model.config.text_config._attn_implementation == "sdpa"
    assert said(conversation, "How many objects are there?") == str(len(draw_scene(6).objects))


@pytest.mark.exhaustive
def test_drawing_is_repeatable(demo: LoadedModel) -> None:
    image = draw_scene(9).image
    answers = [
        said(Conversation(demo, "20%", sampling=Sampling(40, 6.0, 0.99, seed)), "Describe the image.", image)
        for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_length_limit_is_reported(demo: LoadedModel) -> None:
    conversation = Conversation(demo, sampling=Sampling(max_new_tokens=3))
    said(conversation, "Describe the image.", draw_scene(9).image)
    assert conversation.last_answer is not None
    assert (conversation.last_answer.finish_reason, conversation.last_answer.new_tokens) == ("length", 3)


def test_clear_forgets(demo: LoadedModel) -> None:
    conversation = Conversation(demo)
    said(conversation, "How many objects are there?", draw_scene(9).image)
    conversation.clear()
    assert conversation.usage().allocated_bytes == 0
    assert said(conversation, "How many objects are there?", draw_scene(4).image) == str(len(draw_scene(4).objects))


def test_text_model_refuses_images(demo: LoadedModel) -> None:
    import dataclasses

    conversation = Conversation(dataclasses.replace(demo, takes_images=False))
    with pytest.raises(PrefixKVError, match="reads no images"):
        said(conversation, "What is this?", draw_scene(1).image)


@pytest.mark.exhaustive
def test_batch_free_memory_of_scoring_is_linear() -> None:
    """A prompt of 8,192 tokens through two layers takes at most twice the memory of one of 4,096."""
    from tests import tiny
    from tests.live_memory import LiveMemory

    # Torch 2.6 attends to grouped heads on the CPU by the whole matrix, with any cache.
    query, key = torch.empty(1, 32, 8, 16), torch.empty(1, 8, 8, 16)
    kernel = torch._fused_sdp_choice(query, key, key, None, 0.0, True, scale=1.0, enable_gqa=True)
    kv_heads = 32 if kernel == SDPBackend.MATH.value else 8
    model = tiny.llama(layers=2, query_heads=32, kv_heads=kv_heads)
    peaks = []
    for length in (4096, 8192):
        with torch.no_grad(), prefixkv.compress(model, "20%") as cache, LiveMemory() as memory:
            model(tiny.text(length), **cache_argument(cache), logits_to_keep=1)
        peaks.append(memory.peak_bytes)
    assert peaks[1] <= 2.1 * peaks[0]
    assert peaks[1] < 32 * 8192 * 8192 * 4 / 8


def test_pictures_of_very_many_tokens_are_said_before_they_are_read(
    demo: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line comes once, for what is about to be read, and names the option that limits it."""
    heard: list[str] = []
    conversation = Conversation(demo, "100%", notify=heard.append)
    conversation.attach(Image.new("RGB", (64, 64), "white"))
    monkeypatch.setattr("prefixkv.chat.reader.MANY_PICTURE_TOKENS", 10_000)
    said(conversation, "what is this?")
    assert not any("--max-pixels" in line for line in heard)
    monkeypatch.setattr("prefixkv.chat.reader.MANY_PICTURE_TOKENS", 1)
    conversation.attach(Image.new("RGB", (64, 64), "red"))
    said(conversation, "what is this?")
    (line,) = [line for line in heard if "--max-pixels" in line]
    assert int(line.split()[0]) == conversation.reading.kinds.count(PICTURE) // 2
    said(conversation, "and this?")
    assert len([line for line in heard if "--max-pixels" in line]) == 1
