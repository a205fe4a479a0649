"""What taking back, stopping, failing and changing do to a conversation: exact rules, checked on the demo model."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.chat.conversation import UNDO_TURNS, Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.errors import DeviceMemoryError, OptionError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.methods.table import METHODS
from prefixkv.models.loading import LoadedModel
from tests.passes import passes
from tests.small_demo import small_demo

LATER = ("How many objects are there?", "Describe the image.", "How many red objects are there?")
SHORT = Sampling(max_new_tokens=16)
EVICTING = [name for name, method in METHODS.items() if not method.keeps_all]


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return small_demo()


def said(conversation: Conversation, prompt: str) -> str:
    return "".join(conversation.ask(prompt)).strip()


def begun(demo: LoadedModel, budget: Any = "20%", method: str = "prefixkv", **options: Any) -> Conversation:
    conversation = Conversation(demo, budget, method, SHORT, **options)
    conversation.attach(draw_scene(31).image)
    said(conversation, "Describe the image.")
    return conversation


def entries(conversation: Conversation) -> list[tuple[torch.Tensor, ...]]:
    """All that the layers store, in the order of their buffers."""
    return [
        (layer.keys[:, :, : layer.kept_tokens], layer.values[:, :, : layer.kept_tokens], *_choices(layer))
        for layer in conversation.cache.layers
    ]


def _choices(layer: Any) -> tuple[torch.Tensor, ...]:
    return layer.positions[..., : layer.kept_tokens], layer.importance[..., : layer.kept_tokens]


def assert_same_cache(one: Conversation, other: Conversation) -> None:
    for mine, theirs in zip(entries(one), entries(other), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert all(map(torch.equal, *([layer.queue for layer in each.cache.layers] for each in (one, other))))


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("method", EVICTING)
def test_stopped_turn_is_kept_exactly_as_far_as_it_was_said(small: LoadedModel, method: str) -> None:
    """The next answers are those of a conversation in which that answer was as long as what was said, and no longer."""
    stopped, cut = begun(small, method=method), begun(small, method=method)
    answer = stopped.ask("Describe the image.")
    # What is left of the picture under the paper's code may end the answer with its second word.
    for _ in range(1 if method == "prefixkv-release" else 2):
        next(answer)
    answer.close()
    assert stopped.last_answer is not None
    assert stopped.last_answer.finish_reason == "interrupted"
    cut.sampling = Sampling(max_new_tokens=stopped.last_answer.new_tokens)
    said(cut, "Describe the image.")
    cut.sampling = SHORT
    assert_same_cache(stopped, cut)
    assert [said(stopped, question) for question in LATER] == [said(cut, question) for question in LATER]


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("budget", ["20%", "60KiB"])
@pytest.mark.parametrize("method", EVICTING)
def test_turn_that_fails_in_the_middle_was_never_asked(small: LoadedModel, method: str, budget: str) -> None:
    failed, never = begun(small, budget, method), begun(small, budget, method)
    calls = []

    def fail(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    hook = small.model.model.language_model.layers[2].register_forward_pre_hook(fail, with_kwargs=True)
    pieces = []
    try:
        with pytest.raises(KeyboardInterrupt):
            pieces.extend(failed.ask("Describe the image."))
    finally:
        hook.remove()
    # In the second pass; what the first one's token says may not be whole characters yet.
    assert (len(calls), len(pieces)) in ((2, 0), (2, 1))
    assert len(failed.history) == 1
    assert_same_cache(failed, never)
    assert [said(failed, question) for question in LATER] == [said(never, question) for question in LATER]


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("method", EVICTING)
def test_undone_turn_was_never_asked(small: LoadedModel, method: str) -> None:
    undone, never = begun(small, method=method), begun(small, method=method)
    for question in LATER[:2]:
        said(undone, question)
    assert [undone.undo().prompt for _ in LATER[:2]] == [LATER[1], LATER[0]]
    assert_same_cache(undone, never)
    assert [said(undone, question) for question in LATER] == [said(never, question) for question in LATER]


def test_undone_first_turn_gives_its_picture_back(demo: LoadedModel) -> None:
    conversation = begun(demo, "100%")
    conversation.undo()
    assert len(conversation.waiting) == 1
    assert said(conversation, "How many objects are there?") == str(len(draw_scene(31).objects))
    with pytest.raises(PrefixKVError, match="no turn to take back"):
        for _ in range(2):
            conversation.undo()


def test_more_turns_than_are_remembered_are_read_again(small: LoadedModel) -> None:
    conversation, fresh = begun(small), begun(small)
    for _ in range(UNDO_TURNS + 1):
        said(conversation, "How many objects are there?")
    for _ in range(UNDO_TURNS + 1):
        conversation.undo()
    assert conversation.usage().allocated_bytes == 0
    fresh.change_budget("20%", "prefixkv")
    assert said(conversation, LATER[0]) == said(fresh, LATER[0])
    assert_same_cache(conversation, fresh)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(("budget", "method"), [("50%", "prefixkv"), ("20%", "h2o"), ("1MiB", "prefixkv")])
def test_changed_budget_is_that_of_a_conversation_read_in_one_go(small: LoadedModel, budget: str, method: str) -> None:
    changed, other = begun(small), begun(small, "100%")
    changed.change_budget(budget, method)
    assert changed.usage().allocated_bytes == 0
    answer = said(changed, LATER[0])
    # The other has the same words, from a run of its own: the first answer is put in its place.
    other._turns[0].answer = changed.history[0][0].answer
    other.change_budget(budget, method)
    assert said(other, LATER[0]) == answer
    assert_same_cache(changed, other)
    assert changed.cache.seen_tokens == len(changed.reading.tokens)


def test_refused_budget_changes_nothing(demo: LoadedModel) -> None:
    conversation, same = begun(demo), begun(demo)
    with pytest.raises(OptionError):
        conversation.change_budget("0%")
    with pytest.raises(PrefixKVError, match="give at least"):
        conversation.change_budget("1KiB", "prefixkv")
    assert_same_cache(conversation, same)


@pytest.mark.exhaustive
def test_second_picture_later_in_the_conversation_equals_stock(demo: LoadedModel) -> None:
    first, second = draw_scene(31).image, draw_scene(32).image
    conversation = Conversation(demo, "100%")
    conversation.attach(first)
    answer = said(conversation, "How many objects are there?")
    conversation.attach(second)
    ours = said(conversation, "Describe the image.")
    parts = {"type": "text", "text": "Describe the image."}
    text = demo.processor.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many objects are there?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            {"role": "user", "content": [{"type": "image"}, parts]},
        ],
        add_generation_prompt=True,
    )
    inputs = demo.processor(text=text, images=[first, second], return_tensors="pt")
    out = demo.model.generate(**inputs, max_new_tokens=512, do_sample=False)
    stock = demo.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert ours == stock
    assert conversation.reading.images == 2
    assert bytes(conversation.reading.kinds).count(1) == 2 * 576


def test_system_text_comes_first_and_is_refused_where_there_is_no_place_for_it(demo: LoadedModel) -> None:
    conversation = begun(demo, "100%")
    conversation.instruct("Answer in one word.")
    said(conversation, "How many objects are there?")
    read = demo.tokenizer.decode(list(conversation.reading.tokens[:12]))
    assert "Answer in one word." in read
    template = demo.processor.chat_template
    try:
        demo.processor.chat_template = "{% for m in messages if m['role'] == 'user' %}USER: hi{% endfor %}"
        with pytest.raises(PrefixKVError, match="takes no system text"):
            conversation.instruct("Be brief.")
    finally:
        demo.processor.chat_template = template


@pytest.mark.exhaustive
def test_ten_turns_stay_within_a_byte_budget_and_each_reads_its_own_question_only(demo: LoadedModel) -> None:
    """What the first token of turn 10 waits for is no more than at turn 2: the question, and a cache of 1 MiB."""
    limit = 2**20
    questions = [*LATER, "Which object is in row 2, column 2?", "How many squares are there?"] * 2
    conversation = Conversation(demo, "1MiB")
    conversation.attach(draw_scene(31).image)
    read = []
    for turn, question in enumerate(questions):
        with passes(demo.model) as seen:
            for _ in conversation.ask(question):
                assert conversation.usage().allocated_bytes <= limit
        assert conversation.usage().allocated_bytes <= limit
        assert seen.pictures == (1 if turn == 0 else 0)
        assert seen.tokens[1:] == [1] * (len(seen.tokens) - 1)
        read.append(seen.tokens[0])
    assert len(read) == 10
    assert read[0] > 576
    assert max(read[1:]) < 40


def test_larger_pictures_are_scaled_down_and_that_is_said(demo: LoadedModel) -> None:
    notices: list[str] = []
    conversation = Conversation(demo, sampling=SHORT, notify=notices.append, max_pixels=50_000)
    conversation.attach(draw_scene(31).image)
    "".join(conversation.ask("Describe the image.", draw_scene(32).image.resize((100, 100))))
    sizes = [image.size for image in conversation.history[0][0].images]
    assert sizes == [(223, 223), (100, 100)]
    (scaled,) = (notice for notice in notices if "scaled down" in notice)
    assert "scaled down to 223 x 223" in scaled
    # The demo model knows scenes of one size.
    assert [notice for notice in notices if "is no drawn scene or document" in notice] == notices[1:]
    with pytest.raises(OptionError, match="max-pixels 10 is too small"):
        Conversation(demo, max_pixels=10)


@pytest.mark.parametrize("failing_pass", [1, 3], ids=["reading", "decoding"])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no memory"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
    ids=["gpu", "cpu"],
)
def test_where_memory_ends_the_conversation_goes_on_without_the_question(
    small: LoadedModel, monkeypatch: pytest.MonkeyPatch, failing_pass: int, error: Exception
) -> None:
    talk, expected = begun(small), begun(small)
    does, passes = small.model.forward, 0

    def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == failing_pass:
            raise error
        return does(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(small.model, "forward", failing)
        with pytest.raises(DeviceMemoryError, match="cpu ran out of memory: give a smaller"):
            said(talk, LATER[0])
    talk.attach(draw_scene(5).image)
    if failing_pass == 1:
        passes = 0
        with monkeypatch.context() as patched:
            patched.setattr(small.model, "forward", failing)
            with pytest.raises(DeviceMemoryError):
                talk.read()
    assert_same_cache(talk, expected)
    expected.attach(draw_scene(5).image)
    assert said(talk, LATER[1]) == said(expected, LATER[1])
    assert_same_cache(talk, expected)


def test_no_tensor_waits_for_the_collector(small: LoadedModel) -> None:
    """What an answer has needed is free when it ends: on a GPU it is memory that the next one wants."""
    gc.collect()
    gc.disable()
    try:
        talk = begun(small, method="guided")
        said(talk, LATER[0])
        talk.undo()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [found for found in gc.garbage if isinstance(found, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("budget", ["30%", "100%"])
@pytest.mark.parametrize("fault", ["pictures of another size", "numbers that have overflowed"])
def test_a_model_that_does_not_fit_its_files_is_refused_and_the_conversation_is_kept(
    small: LoadedModel, monkeypatch: pytest.MonkeyPatch, fault: str, budget: str
) -> None:
    talk = Conversation(small, budget, "prefixkv", SHORT)
    first = said(talk, "How many?")
    with monkeypatch.context() as patch:
        if fault == "pictures of another size":
            patch.setattr(small.processor.image_processor, "crop_size", {"height": 70, "width": 70})
        else:
            patch.setattr(small.model.lm_head, "forward", lambda hidden: hidden * float("nan"))
        says = "does not take the pictures as its processor" if "pictures" in fault else "not a number"
        for ask in (talk.ask, Conversation(small, budget, "prefixkv", SHORT).ask):
            with pytest.raises(PrefixKVError, match=says):
                "".join(ask("How many?", [draw_scene(31).image]))
        with prefixkv.Engine(small, "prefixkv") as engine, pytest.raises(PrefixKVError, match=says):
            engine.submit(Prompt(small.processor, [Turn("How many?", (draw_scene(31).image,))]), budget).result(30)
    assert [turn.answer for turn, _ in talk.history] == [first]
    fresh = Conversation(small, budget, "prefixkv", SHORT)
    said(fresh, "How many?")
    assert said(talk, "Which?") == said(fresh, "Which?")
