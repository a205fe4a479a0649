"""Saved contexts: token-identical answers, quick loading, and refusal of another model or a changed file."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

import prefixkv
from prefixkv.chat import context
from prefixkv.chat.asking_again import ask_again
from prefixkv.chat.context import load_context, save_context
from prefixkv.chat.context_file import DIGEST_KEY, HEAD_KEY, UNSEALED, read_head, seal
from prefixkv.chat.context_layout import are_finite, read_whole
from prefixkv.chat.context_pictures import png_of
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.images import picture_sha256
from prefixkv.methods.table import METHODS
from prefixkv.models.loading import LoadedModel
from prefixkv.profiles.config import PrefixConfig
from tests.passes import Passes, passes
from tests.small_demo import small_demo

LATER = ("Describe the image.", "How many red objects are there?", "Which object is in row 2, column 2?")


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return small_demo()


def said(conversation: Conversation, prompt: str) -> str:
    return "".join(conversation.ask(prompt)).strip()


def begun(demo: LoadedModel, budget: Any = "20%", method: str = "prefixkv", seed: int = 31) -> Conversation:
    """A conversation after one turn, whose answer has overwritten entries."""
    conversation = Conversation(demo, budget, method, Sampling(max_new_tokens=24))
    conversation.attach(draw_scene(seed).image)
    said(conversation, "Describe the image.")
    return conversation


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("budget", ["20%", "60KiB", "40tok"])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.keeps_all])
def test_loaded_context_goes_on_as_if_it_had_never_been_saved(
    small: LoadedModel, tmp_path: Path, method: str, budget: str
) -> None:
    conversation = begun(small, budget, method)
    save_context(conversation, tmp_path / "a.safetensors", "a")
    loaded = load_context(tmp_path / "a.safetensors", small, conversation.sampling)
    assert loaded.usage() == dataclasses.replace(conversation.usage(), allocated_bytes=loaded.usage().allocated_bytes)
    for layer, other in zip(conversation.cache.layers, loaded.cache.layers, strict=True):
        assert torch.equal(layer.keys[:, :, : layer.kept_tokens], other.keys)
        assert torch.equal(layer.positions[:, :, : layer.kept_tokens], other.positions)
        assert layer.queue.equal(other.queue)
    for question in LATER:
        assert said(loaded, question) == said(conversation, question)


ROUND_TRIPS = [
    pytest.param(method, budget, marks=() if budget in often else pytest.mark.exhaustive)
    for method in METHODS
    for often in [("10%", "3%") if METHODS[method].packs else ("5%",)]
    for budget in ("100%", "50%", "20%", "10%", "5%", "3%")
]


@pytest.mark.parametrize(("method", "budget"), ROUND_TRIPS)
def test_every_method_at_every_budget_is_saved_opened_and_asked_again(
    small: LoadedModel, tmp_path: Path, method: str, budget: str
) -> None:
    conversation = Conversation(small, budget, method, Sampling(max_new_tokens=12))
    conversation.attach(draw_scene(31).image)
    said(conversation, "Describe the image.")
    save_context(conversation, tmp_path / "a.safetensors", "a")
    read_whole(tmp_path / "a.safetensors")
    loaded = load_context(tmp_path / "a.safetensors", small, conversation.sampling)
    assert loaded.cache.row.bits == conversation.cache.row.bits
    assert said(loaded, LATER[1]) == said(conversation, LATER[1])


def test_guided_stores_fewest_bits_where_little_is_kept(demo: LoadedModel) -> None:
    """What the round trips above go through: every precision there is, and the model's own."""
    found = set()
    for budget in ("100%", "52%", "30%", "14.1%", "10%", "3%"):
        conversation = Conversation(demo, budget, "guided")
        conversation.attach(draw_scene(31).image)
        conversation.read()
        found.add(conversation.cache.row.bits)
    assert found == {None, 8, 4, 42, 2}


def changed_head(data: bytes, **changes: Any) -> bytes:
    """The file with other things in its head, sealed again."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"]
    metadata[HEAD_KEY] = json.dumps(json.loads(metadata[HEAD_KEY]) | changes)
    metadata[DIGEST_KEY] = UNSEALED
    text = json.dumps(header, separators=(",", ":")).encode()
    return seal(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bits": 3}, "entries of 3 bits"),
        ({"bits": 2}, "the tensors of layer 0 do not fit each other"),
        ({"layers": []}, "0 layers"),
        ({"layers": [{"seen_tokens": 1, "anchor_seen": 1, "anchor_kept": 1}] * 8}, "the numbers of layer 0"),
        ({"windows": {"1": 5}}, "windows.1.keys"),
        ({"budget": {"text": "20%", "kind": "fraction", "amount": "1/0"}}, "is not whole"),
        ({"pictures": [{"name": n, "sha256": "", "width": 1, "height": 1} for n in "ab"]}, "pictures.1"),
        ({"pictures": [{"name": "a"}]}, "pictures.0.sha256 is missing"),
        ({"layers": [{"seen_tokens": 300, "anchor_seen": 1, "anchor_kept": 1}] * 8}, "positions beyond the 300 tokens"),
        ({"kept_bytes": 10**400}, "kept_bytes is 1000"),
        ({"model": {"id": 3}}, "model.id is 3: it should be a valid string"),
        ({"turns": [[[]]]}, "turns.0 is [[]]"),
        ({"limits": [-1] * 8}, "limits.0 is -1"),
        ({"layers": [{"seen_tokens": 900, "anchor_seen": 0, "anchor_kept": 0}] * 8}, "are of no compaction"),
        (
            {"layers": [{"seen_tokens": 900 + n, "anchor_seen": 9, "anchor_kept": 9} for n in range(8)]},
            "different numbers",
        ),
        ({"keep_fractions": [0.5]}, "1 shares for 8 layers"),
        (
            {"budget": {"text": "9MB", "kind": "bytes", "amount": "9000000"}, "limits": []},
            "a hard limit, and none for its layers",
        ),
        ({"budget": {"text": "20%", "kind": "fraction", "amount": "1e999999999"}}, "budget.amount is '1e999999999'"),
        ({"method": "snapkv"}, "the tensors of layer 0 do not fit each other"),
        ({"pictures_read": 2}, "2 pictures are read, of 1, and 1 were asked about"),
        ({"pictures_read": 0}, "0 pictures are read, of 1, and 1 were asked about"),
    ],
)
def test_what_cannot_be_opened_is_not_shown_as_whole_either(
    demo: LoadedModel, saved: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    (tmp_path / "a.safetensors").write_bytes(changed_head(saved.read_bytes(), **changes))
    refusals = []
    for opens in (read_whole, lambda path: load_context(path, demo)):
        with pytest.raises(PrefixKVError, match="is not whole") as refusal:
            opens(tmp_path / "a.safetensors")
        refusals.append(str(refusal.value))
    assert says in refusals[0]
    assert refusals[0] == refusals[1]


HOSTILE = {
    "next_positions": [(torch.tensor([2**40]), "the next position"), (torch.tensor([0.5]), "the next position")],
    "is_text": [(torch.ones(1, 5000, dtype=torch.bool), "what is text"), (torch.ones(1, 9), "what is text")],
    "reading.kinds": [(lambda old: old + 3, "of an unknown kind")],
    "reading.tokens": [(lambda old: old - 2**40, "are no tokens")],
    "layers.3.importance": [(lambda old: old * float("nan"), "layer 3 has an importance"), (lambda old: old * 2, None)],
    "layers.2.keys": [(lambda old: old * float("nan"), "layer 2 has keys that are no numbers")],
    "layers.3.values": [(lambda old: old / 0, "layer 3 has values that are no numbers")],
    "layers.3.window": [
        (lambda old: old[:0], "the numbers of layer 3"),
        (lambda old: torch.cat([old, old]), "the numbers of layer 3"),
    ],
    "pictures.0": [
        (lambda old: old[:500], "broken or cut off"),
        (torch.zeros(9, dtype=torch.uint8), "is none"),
        (lambda old: png(Image.new("RGB", (336, 336))), "other pixels"),
        (lambda old: png(Image.new("L", (336, 336))), "not as large"),
        (lambda old: png(Image.new("RGB", (20_000, 1))), "not as large"),
    ],
}


def png(image: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(png_of(image)), dtype=torch.uint8)


@pytest.mark.parametrize(("name", "change", "says"), [(name, *case) for name in HOSTILE for case in HOSTILE[name]])
def test_hostile_tensors_are_one_line(saved: Path, tmp_path: Path, name: str, change: Any, says: str | None) -> None:
    data = saved.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = safetensors.torch.load(data)
    tensors[name] = change(tensors[name]) if callable(change) else change
    metadata = header["__metadata__"] | {DIGEST_KEY: UNSEALED}
    (tmp_path / "a.safetensors").write_bytes(seal(safetensors.torch.save(tensors, metadata)))
    if says is None:
        read_whole(tmp_path / "a.safetensors")
        return
    with pytest.raises(PrefixKVError, match="is not whole") as caught:
        read_whole(tmp_path / "a.safetensors")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_what_is_no_number_is_found_in_every_format(name: str, dtype: torch.dtype) -> None:
    numbers = torch.cat(
        [torch.linspace(-9, 9, 33), torch.tensor([0.0, torch.finfo(dtype).max, torch.finfo(dtype).min])]
    )
    for odd in (float("nan"), float("inf"), -float("inf")):
        for found, values in ((True, numbers), (False, torch.cat([numbers, torch.tensor([odd])]))):
            data = values.to(dtype).view(torch.uint8).numpy().tobytes()
            assert are_finite(data, name) is found
            if name == "F16":
                rows = b"".join(b"codes" + data[place : place + 2] for place in range(0, len(data), 2))
                assert are_finite(rows, "U8", len(b"codes") + 2) is found


def test_a_file_of_another_size_than_it_says_is_not_read(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(saved.read_bytes())
    os.truncate(path, 2**36)
    with pytest.raises(PrefixKVError, match=r"has changed since it was saved \(it has 68,719,476,736 bytes"):
        read_whole(path)
    os.mkfifo(tmp_path / "pipe")
    for reads in (read_whole, read_head):
        with pytest.raises(PrefixKVError, match="no regular file"):
            reads(tmp_path / "pipe")


def test_what_was_written_is_read_back(demo: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be opened again is told at once, not when it is needed."""
    monkeypatch.setattr(context, "_ENTRIES", ("keys", "values", "positions"))
    with pytest.raises(PrefixKVError, match=r"is not whole \('layers.0.importance'\)"):
        save_context(begun(demo), tmp_path / "a.safetensors", "a")


@pytest.mark.exhaustive
def test_context_of_a_configuration_keeps_its_shares(demo: LoadedModel, tmp_path: Path) -> None:
    config = PrefixConfig.search("30%", demo.identity, 700, allocation_name="uniform", name="third")
    shares = tuple(share * factor for share, factor in zip(config.keep_fractions, [0.5, 1.5] * 4, strict=True))
    conversation = begun(demo, dataclasses.replace(config, keep_fractions=shares))
    save_context(conversation, tmp_path / "a.safetensors", "a")
    loaded = load_context(tmp_path / "a.safetensors", demo, conversation.sampling)
    assert [said(loaded, question) for question in LATER] == [said(conversation, question) for question in LATER]
    assert [layer.kept_tokens for layer in loaded.cache.layers] == [
        layer.kept_tokens for layer in conversation.cache.layers
    ]


def test_pictures_alone_can_be_saved_and_are_not_read_again(demo: LoadedModel, tmp_path: Path) -> None:
    scene = draw_scene(11)
    conversation = Conversation(demo, "60%")
    conversation.attach(scene.image)
    conversation.read()
    save_context(conversation, tmp_path / "a.safetensors", "a")
    loaded = load_context(tmp_path / "a.safetensors", demo)
    seen = loaded.cache.seen_tokens
    assert seen >= 576
    assert said(loaded, "How many objects are there?") == str(len(scene.objects))
    assert loaded.cache.seen_tokens - seen < 40
    assert loaded.history[0][0].images[0].size == scene.image.size


def test_loaded_context_can_be_read_again_under_another_budget(demo: LoadedModel, tmp_path: Path) -> None:
    """The file holds the pictures, pixel for pixel."""
    save_context(begun(demo), tmp_path / "a.safetensors", "a")
    loaded = load_context(tmp_path / "a.safetensors", demo)
    picture = loaded.history[0][0].images[0]
    assert picture_sha256(picture) == picture_sha256(draw_scene(31).image)
    loaded.change_budget("100%")
    assert said(loaded, "How many objects are there?") == str(len(draw_scene(31).objects))


def test_loading_computes_nothing_and_a_later_question_reads_itself_only(demo: LoadedModel, saved: Path) -> None:
    """No pass while loading; then the picture is not seen again, and no more tokens are read than the turn has."""
    with passes(demo.model) as seen:
        loaded = load_context(saved, demo)
        assert seen == Passes()
        before = loaded.cache.seen_tokens
        said(loaded, LATER[1])
    assert seen.pictures == 0
    assert 1 < seen.tokens[0] < 40
    assert seen.tokens[1:] == [1] * (len(seen.tokens) - 1)
    assert sum(seen.tokens) == loaded.cache.seen_tokens - before


@pytest.fixture(scope="module")
def saved(demo: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("context") / "a.safetensors"
    save_context(begun(demo), path, "a")
    return path


def test_any_changed_byte_is_refused(demo: LoadedModel, saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    header = int.from_bytes(data[:8], "little")
    places = [*range(8 + 20, 8 + header, header // 23), *range(8 + header, len(data), len(data) // 29), len(data) - 1]
    changed = tmp_path / "changed.safetensors"
    for place in places:
        changed.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(PrefixKVError, match=r"changed|no context|is not whole|version"):
            load_context(changed, demo)


@pytest.mark.parametrize("length", [0, 5, 8, 300, 100_000, -1])
def test_cut_file_is_refused(demo: LoadedModel, saved: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:length])
    with pytest.raises(PrefixKVError, match=r"changed|no context"):
        load_context(tmp_path / "cut.safetensors", demo)


def test_other_weights_of_the_same_shape_are_refused(demo: LoadedModel, saved: Path) -> None:
    other = copy.deepcopy(demo.model)
    with torch.no_grad():
        other.model.language_model.layers[5].mlp.up_proj.weight.add_(1e-4)
    with pytest.raises(PrefixKVError, match="other weights"):
        load_context(saved, dataclasses.replace(demo, model=other))


def test_another_dtype_is_refused(saved: Path) -> None:
    with pytest.raises(PrefixKVError, match="dtype float32 instead of bfloat16"):
        load_context(saved, prefixkv.load_model("demo", device="cpu", dtype="bfloat16"))


def test_another_model_is_refused(demo: LoadedModel, saved: Path) -> None:
    from tests import tiny

    model = tiny.llava()
    geometry = dataclasses.replace(demo.geometry, layers=4, head_dim=16)
    with pytest.raises(PrefixKVError, match="layers 8 instead of 4"):
        load_context(saved, dataclasses.replace(demo, model=model, geometry=geometry))


def test_head_names_pictures_and_model_without_reading_the_rest(demo: LoadedModel, saved: Path) -> None:
    head = read_head(saved)
    assert head["pictures"][0]["sha256"] == picture_sha256(draw_scene(31).image)
    assert head["model"]["id"] == "demo"
    assert (head["method"], head["budget"]["text"]) == ("prefixkv", "20%")


def test_empty_conversation_cannot_be_saved(demo: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(PrefixKVError, match="nothing to save"):
        save_context(Conversation(demo), tmp_path / "a.safetensors", "a")
    assert not list(tmp_path.iterdir())


def test_values_for_the_template_are_kept(demo: LoadedModel, tmp_path: Path) -> None:
    notices: list[str] = []
    conversation = Conversation(demo, notify=notices.append, template_args={"enable_thinking": False, "tone": "dry"})
    assert len(notices) == 2
    conversation.attach(draw_scene(31).image)
    conversation.read()
    save_context(conversation, tmp_path / "a.safetensors", "a")
    loaded = load_context(tmp_path / "a.safetensors", demo)
    assert loaded.template_args == {"enable_thinking": False, "tone": "dry"}
    assert loaded.reading.tokens == conversation.reading.tokens


def test_names_that_are_no_utf8_are_kept(demo: LoadedModel, tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    image = draw_scene(31).image.copy()
    image.info = {"name": name}
    conversation = Conversation(demo, "20%", sampling=Sampling(max_new_tokens=2))
    "".join(conversation.ask("How many objects are there?", image))
    save_context(conversation, tmp_path / "a.safetensors", name)
    assert read_head(tmp_path / "a.safetensors")["pictures"][0]["name"] == name
    assert load_context(tmp_path / "a.safetensors", demo).history[0][0].images[0].info["name"] == name


def test_pictures_between_texts_are_kept_where_they_stand(demo: LoadedModel, tmp_path: Path) -> None:
    loaded = dataclasses.replace(demo, processor=copy.deepcopy(demo.processor))
    loaded.processor.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %} {% endfor %}"
    )
    conversation = Conversation(loaded, "20%", sampling=Sampling(max_new_tokens=5))
    conversation.attach(draw_scene(31).image)
    parts = [{"text": "How many objects are there in "}, {"image": draw_scene(32).image}, {"text": "?"}]
    "".join(conversation.ask(parts=parts))
    layout, text = (None, "How many objects are there in ", None, "?"), conversation.history[0][1].text
    assert conversation.history[0][0].content == layout
    assert "".join(ask_again(conversation)) == conversation.history[0][1].text == text
    assert conversation.history[0][0].content == layout
    save_context(conversation, tmp_path / "a.safetensors", "a")
    opened = load_context(tmp_path / "a.safetensors", loaded, conversation.sampling)
    for each in (conversation, opened):
        each.undo()
        assert len(each.waiting) == 2
    with pytest.raises(PrefixKVError, match="give either them"):
        "".join(conversation.ask("What?", parts=parts))
    with pytest.raises(PrefixKVError, match="no place for pictures between texts"):
        "".join(Conversation(demo).ask(parts=parts))


def test_a_refusal_of_another_model_is_one_line_whatever_the_file_calls_it(
    demo: LoadedModel, saved: Path, tmp_path: Path
) -> None:
    model = demo.identity.as_dict() | {"id": "x\n" * 2000, "fingerprint": "a\nb"}
    (tmp_path / "a.safetensors").write_bytes(changed_head(saved.read_bytes(), model=model))
    with pytest.raises(PrefixKVError, match="fingerprint a b instead of") as caught:
        load_context(tmp_path / "a.safetensors", demo)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
