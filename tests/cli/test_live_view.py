"""The live view: what its bars say, how it fits a terminal, and what it costs."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import prefixkv
from prefixkv.cache.usage import CacheUsage, LayerUsage
from prefixkv.chat.conversation import Conversation
from prefixkv.chat.entry_kinds import EntryKinds, kept_kinds
from prefixkv.chat.reading import GENERATED, PICTURE
from prefixkv.demo.scenes import draw_scene
from prefixkv.generation.sampling import Sampling
from prefixkv.models.loading import LoadedModel
from prefixkv_cli.dialogue import answer_view, live_view
from prefixkv_cli.dialogue.answer_view import show_answer
from prefixkv_cli.dialogue.live_view import GLYPHS, Pace, cache_view
from prefixkv_cli.dialogue.reading_view import ReadingView
from prefixkv_cli.tables.cache_report import CacheReport

fcntl = pytest.importorskip("fcntl", reason="there is no pseudo-terminal on this platform")
termios = pytest.importorskip("termios", reason="there is no pseudo-terminal on this platform")


def report(layers: int, budget: str = "20%") -> CacheReport:
    usage = CacheUsage(
        4 * 2**20,
        2**20,
        2**20,
        0.25,
        0.25,
        2.0,
        "int2",
        tuple(LayerUsage(layer, 2000, 500, 2**15) for layer in range(layers)),
    )
    return CacheReport(usage, [EntryKinds(300, 100, 100)] * layers, budget, 2**20, 0.4, 12.5)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("rows", [1, 2, 4, 12, 24, 50])
@pytest.mark.parametrize("layers", [0, 1, 8, 32, 80])
def test_view_never_leaves_its_room(layers: int, rows: int, width: int) -> None:
    lines = cache_view(report(layers), width, rows).plain.splitlines()
    assert len(lines) <= max(1, rows)
    assert all(len(line.rstrip()) <= width for line in lines if "allowed" not in line)
    assert lines[len(lines) - min(3, rows) :][0] == "kept 25.0% of the tokens · int2, 2 bits" or rows < 3


def test_all_layers_are_shown_side_by_side_where_there_is_room() -> None:
    view = cache_view(report(32), 120, 24).plain
    assert view.count("500/2000") == 32
    assert len(view.splitlines()) <= 24
    assert cache_view(report(32), 60, 24).plain.count("500/2000") == 0


def test_bar_is_as_long_as_what_is_kept() -> None:
    line = cache_view(report(1), 66, 10).plain.splitlines()[0]
    lengths = [line.count(glyph) for glyph, _ in GLYPHS.values()]
    assert lengths == [6, 2, 2, 30]


class Clock:
    """Time that passes only where the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(live_view, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def drawing(self, seconds: float, cost: float, step: float = 0.005) -> tuple[int, float]:
        """How often a pace draws within some seconds, and the share of them that this takes."""
        drawn = 0

        def draw() -> None:
            nonlocal drawn
            drawn += 1
            self.now += cost

        pace, started = Pace(), self.now
        while self.now < started + seconds:
            pace.draw(draw)
            self.now += step
        return drawn, drawn * cost / (self.now - started)


def test_pace_draws_at_most_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, _ = Clock(monkeypatch).drawing(5.0, cost=0.0)
    assert 45 <= drawn <= 50


@pytest.mark.parametrize("cost", [0.001, 0.0015, 0.005, 0.02, 0.3])
def test_drawing_that_takes_longer_is_done_less_often(monkeypatch: pytest.MonkeyPatch, cost: float) -> None:
    drawn, share = Clock(monkeypatch).drawing(100.0, cost)
    assert drawn >= 4
    assert share < 0.02


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
    # Behind the answer's last piece comes one more token, its end, for which another may leave.
    for layer, kind in enumerate(kept_kinds(conversation.cache, conversation.reading)):
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


def test_reading_a_long_prompt_shows_how_many_layers_have_read_it_and_the_time_left() -> None:
    layers = [SimpleNamespace(seen_tokens=40) for _ in range(8)]
    conversation: Any = SimpleNamespace(cache=SimpleNamespace(layers=layers))
    now = 0.0
    view = ReadingView(conversation, lambda: now)
    console = Console(width=60, file=io.StringIO())

    def drawn() -> str:
        with console.capture() as shown:
            console.print(view)
        return shown.get().strip()

    assert drawn() == "reading ..."
    # A picture's own layers take two seconds; then each of the model's takes half a one.
    for seconds, done in ((2.0, 1), (2.5, 2), (3.5, 4), (5.5, 8)):
        now = seconds
        for layer in layers[:done]:
            layer.seen_tokens = 240
        line = drawn()
        assert f"{done}/8 layers" in line
        assert len(line) <= 60
        assert (f" {(8 - done) / 2:.0f} s left" in line) == (done > 1)


def test_nothing_is_done_for_the_view_but_at_its_pace(
    demo: LoadedModel, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Reports and bars are made where the pace draws, and once before the first token."""
    made = {"report": 0, "view": 0, "paces": 0, "drawn": 0}

    def counted(name: str, function: Any) -> Any:
        def count(*arguments: Any) -> Any:
            made[name] += 1
            return function(*arguments)

        return count

    def every_third(pace: Pace, drawing: Any) -> None:
        made["paces"] += 1
        if made["paces"] % 3 == 0:
            made["drawn"] += 1
            drawing()

    conversation = Conversation(demo, "20%", sampling=Sampling(60, temperature=5.0, seed=3))
    conversation.attach(draw_scene(31).image)
    with capfd.disabled(), on_terminal(monkeypatch):
        monkeypatch.setattr(answer_view, "cache_view", counted("view", answer_view.cache_view))
        monkeypatch.setattr(answer_view.CacheReport, "of", counted("report", answer_view.CacheReport.of))
        monkeypatch.setattr(live_view.Pace, "draw", every_third)
        show_answer(conversation, conversation.ask("Describe the image."))
    assert made["paces"] > 10
    assert made["drawn"] >= 3
    assert made["report"] == made["view"] == made["drawn"] + 1
