"""The live view: what its bars say, how it fits a terminal, and what it costs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import prefixkv
from prefixkv.cache.usage import CacheUsage, LayerUsage
from prefixkv.chat.conversation import Conversation
from prefixkv.chat.entry_kinds import EntryKinds, kept_kinds
from prefixkv.chat.reading import GENERATED, PICTURE
from prefixkv.demo.scenes import draw_scene
from prefixkv.generation.sampling import Sampling
from prefixkv.models.loading import LoadedModel
from prefixkv_cli.dialogue import live_view
from prefixkv_cli.dialogue.answer_view import show_answer
from prefixkv_cli.dialogue.live_view import GLYPHS, Pace, cache_view
from prefixkv_cli.tables.cache_report import CacheReport


def report(layers: int, budget: str = "20%") -> CacheReport:
    usage = CacheUsage(
        4 * 2**20, 2**20, 2**20, 0.25, tuple(LayerUsage(layer, 2000, 500, 2**15) for layer in range(layers))
    )
    return CacheReport(usage, [EntryKinds(300, 100, 100)] * layers, budget, 2**20, 0.4, 12.5)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("rows", [1, 2, 4, 12, 24, 50])
@pytest.mark.parametrize("layers", [0, 1, 8, 32, 80])
def test_view_never_leaves_its_room(layers: int, rows: int, width: int) -> None:
    lines = cache_view(report(layers), width, rows).plain.splitlines()
    assert len(lines) <= max(1, rows)
    assert all(len(line.rstrip()) <= width for line in lines if "now" not in line)
    assert lines[len(lines) - min(3, rows) :][0].startswith("now 1 MiB (25.0%)") or rows < 3


def test_all_layers_are_shown_side_by_side_where_there_is_room() -> None:
    view = cache_view(report(32), 120, 24).plain
    assert view.count("500/2000") == 32
    assert len(view.splitlines()) <= 24
    assert cache_view(report(32), 60, 24).plain.count("500/2000") == 0


def test_bar_is_as_long_as_what_is_kept() -> None:
    line = cache_view(report(1), 66, 10).plain.splitlines()[0]
    lengths = [line.count(glyph) for glyph, _ in GLYPHS.values()]
    assert lengths == [6, 2, 2, 30]


@pytest.mark.timing
def test_pace_draws_at_most_ten_times_a_second_and_seldom_when_drawing_is_slow() -> None:
    def drawn_in(seconds: float, cost: float) -> int:
        drawn: list[float] = []
        pace, started = Pace(), time.perf_counter()
        while time.perf_counter() < started + seconds:
            pace.draw(lambda: (drawn.append(1), time.sleep(cost)))
        return len(drawn)

    assert 3 <= drawn_in(0.55, 0.0) <= 5
    assert drawn_in(0.9, 0.02) == 1


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.mark.parametrize("method", ["prefixkv", "h2o"])
def test_kinds_add_up_to_what_is_kept_and_are_those_of_the_positions(demo: LoadedModel, method: str) -> None:
    conversation = Conversation(demo, "20%", method, Sampling(max_new_tokens=40))
    conversation.attach(draw_scene(31).image)
    for _ in conversation.ask("Describe the image."):
        kinds = kept_kinds(conversation.cache, conversation.reading)
        assert [kind.total for kind in kinds] == [layer.kept_tokens for layer in conversation.cache.layers]
    for layer, kind in enumerate(kinds):
        positions = conversation.cache.kept_positions(layer)[0]
        read = [conversation.reading.kinds[place] for place in positions.flatten().tolist()]
        heads = positions.shape[0]
        assert kind.picture == round(read.count(PICTURE) / heads)
        assert abs(kind.generated - read.count(GENERATED) / heads) <= 1
        assert kind.generated > 0


@contextlib.contextmanager
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard streams on a real pseudo-terminal of 40 x 120 that somebody reads."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def drain() -> None:
        try:
            while os.read(master, 65536):
                pass
        except OSError:
            return

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    streams = [os.fdopen(os.dup(slave), "w", encoding="utf-8") for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    for variable in ("COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    try:
        yield
    finally:
        monkeypatch.undo()
    for stream in streams:
        stream.close()
    os.close(slave)
    os.close(master)


@pytest.mark.timing
def test_live_view_takes_less_than_two_percent_of_the_time(
    demo: LoadedModel, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """All that is done for the view while the answer is made, over the time that the answer takes."""
    spent, drawn = 0.0, 0
    draw = live_view.Pace.draw

    def timed(pace: Pace, drawing: Any) -> None:
        nonlocal spent, drawn

        def counted() -> None:
            nonlocal drawn
            drawn += 1
            drawing()

        started = time.perf_counter()
        draw(pace, counted)
        spent += time.perf_counter() - started

    seconds = 0.0
    conversation = Conversation(demo, "20%", sampling=Sampling(200, temperature=5.0, seed=3))
    conversation.attach(draw_scene(31).image)
    with capfd.disabled(), on_terminal(monkeypatch):
        monkeypatch.setattr(live_view.Pace, "draw", timed)
        while seconds < 4:
            show_answer(conversation, conversation.ask("Describe the image."))
            assert conversation.last_answer is not None
            seconds += conversation.last_answer.decode_seconds
    with capfd.disabled():
        print(f"live view: drawn {drawn} times in {seconds:.2f} s, {spent / seconds:.2%} of the time")
    assert drawn >= 3
    assert drawn <= 10 * seconds
    assert spent < 0.02 * seconds
