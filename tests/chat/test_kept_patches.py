"""Which patches every layer keeps, and the counting of tokens by kind that it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.chat.kept_patches import kept_patches
from prefixkv.chat.other_budget import asked_again
from prefixkv.demo.scenes import draw_scene
from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.models.loading import LoadedModel
from prefixkv_cli.plots.kept_plot import draw_kept
from prefixkv_cli.reports.kept_file import write_kept_file


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


def asked(demo: LoadedModel, budget: str, method: str, *seeds: int) -> Conversation:
    conversation = Conversation(demo, budget, method, Sampling(max_new_tokens=5))
    for seed in seeds:
        conversation.attach(draw_scene(seed).image)
    for _ in conversation.ask("How many objects are there?"):
        pass
    return conversation


@pytest.mark.parametrize("method", ["prefixkv", "h2o"])
def test_patches_are_those_of_the_kept_positions(demo: LoadedModel, method: str) -> None:
    conversation = asked(demo, "20%", method, 31)
    (picture,) = kept_patches(conversation)
    assert picture.kept.shape == (8, 24, 24)
    start = conversation.reading.kinds.index(1)
    for layer, kept in enumerate(picture.kept):
        positions = conversation.cache.kept_positions(layer)[0]
        for head in positions:
            own = {int(place) - start for place in head if start <= place < start + 576}
            assert all(kept.flat[place] > 0 for place in own)
        assert kept.sum() == pytest.approx(
            sum(start <= int(place) < start + 576 for place in positions.flatten()) / len(positions)
        )


def test_everything_is_kept_at_full_budget_and_the_pixels_are_the_pictures(demo: LoadedModel) -> None:
    (picture,) = kept_patches(asked(demo, "100%", "prefixkv", 31))
    assert bool((picture.kept == 1).all())
    assert np.array_equal(picture.pixels, np.asarray(draw_scene(31).image))


@pytest.mark.exhaustive
def test_pictures_of_one_question_are_told_apart(demo: LoadedModel, tmp_path: Path) -> None:
    conversation = asked(demo, "30%", "prefixkv", 31, 32)
    first, second = kept_patches(conversation)
    assert np.array_equal(second.pixels, np.asarray(draw_scene(32).image))
    assert not np.array_equal(first.kept, second.kept)
    draw_kept(conversation, tmp_path / "kept.png")
    with Image.open(tmp_path / "kept.png") as painted:
        assert painted.height > painted.width


def test_nothing_of_the_painting_lies_outside_of_it(
    demo: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    outside: list[str] = []
    save = Figure.savefig

    def look(self: Figure, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        for axes in self.axes:
            # In inches, labels and ticks included.
            box = axes.get_tightbbox().transformed(self.dpi_scale_trans.inverted())
            if box.x0 < 0 or box.y0 < 0 or box.x1 > self.get_figwidth() or box.y1 > self.get_figheight():
                outside.append(axes.get_title() or axes.get_ylabel())

    monkeypatch.setattr(Figure, "savefig", look)
    draw_kept(asked(demo, "30%", "prefixkv", 31), tmp_path / "kept.png")
    assert not outside


def test_question_asked_again_under_another_budget_leaves_the_conversation_alone(demo: LoadedModel) -> None:
    conversation = asked(demo, "20%", "guided", 31)
    kept = [conversation.cache.kept_positions(layer).clone() for layer in range(8)]
    usage = conversation.usage()
    other = asked_again(conversation, "5%")
    (picture,), (own,) = kept_patches(other), kept_patches(conversation)
    assert (picture.bits, own.bits) == ((other.cache.row.bits,) * 8, (conversation.cache.row.bits,) * 8)
    assert picture.bits != own.bits
    assert np.array_equal(picture.kept, kept_patches(asked(demo, "5%", "guided", 31))[0].kept)
    assert conversation.usage() == usage
    assert all(bool((conversation.cache.kept_positions(layer) == kept[layer]).all()) for layer in range(8))
    # What was said before the last question stays as it was said.
    for _ in conversation.ask("Describe the image."):
        pass
    third = asked_again(conversation, "50%")
    assert [turn.prompt for turn, _ in third.history] == ["How many objects are there?", "Describe the image."]
    assert third.history[0][1] is conversation.history[0][1]


def test_nothing_asked_cannot_be_asked_again(demo: LoadedModel) -> None:
    with pytest.raises(PrefixKVError, match="nothing was asked"):
        asked_again(Conversation(demo), "5%")


@pytest.mark.exhaustive
def test_page_has_a_frame_for_each_layer_and_budget_and_every_answer(demo: LoadedModel, tmp_path: Path) -> None:
    conversation = asked(demo, "20%", "guided", 31)
    write_kept_file(conversation, tmp_path / "kept.html")
    page = (tmp_path / "kept.html").read_text(encoding="utf-8")
    assert page.count('"name":"') == 9 * 4
    assert all(f"budget {budget}, layer 7: " in page for budget in ("50%", "20%", "10%", "5%"))
    assert page.count(conversation.history[-1][1].text.strip()) >= 1
    assert "20% (yours)" in page


def test_no_picture_cannot_be_painted(demo: LoadedModel) -> None:
    with pytest.raises(PrefixKVError, match="read no picture"):
        kept_patches(Conversation(demo))
