"""A whole conversation with the demo model in a real pseudo-terminal, at two widths."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import prefixkv
from prefixkv.chat.context import load_context
from prefixkv.chat.conversation import Conversation
from prefixkv.demo import scene_path
from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.images import open_image
from prefixkv_cli.dialogue import conversation as conversation_loop
from tests.cli.screen import Terminal

WIDTHS = (60, 120)
Start = Callable[..., Terminal]
FIRST, SECOND, LONG, AFTER = (
    "How many objects are there?",
    "Which object is in row 1, column 2?",
    "Describe the image.",
    "How many green objects are there?",
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Terminal] = []

    def start(*arguments: str, columns: int) -> Terminal:
        started.append(Terminal(["chat", *arguments], columns, PREFIXKV_HOME=str(tmp_path / "home")))
        started[-1].wait_until_loaded()
        return started[-1]

    yield start
    for terminal in started:
        terminal.child.close(force=True)


def words(text: str) -> str:
    """A text as one line, however it was broken."""
    return " ".join(text.split())


def said(conversation: Conversation, question: str) -> str:
    return "".join(conversation.ask(question)).strip()


def replay(tokens: int) -> tuple[Conversation, list[str]]:
    """The same conversation without a terminal, its long answer `tokens` tokens long."""
    conversation = Conversation(prefixkv.load_model("demo", device="cpu"), "20%")
    conversation.attach(open_image(scene_path()))
    answers = [said(conversation, FIRST), said(conversation, SECOND)]
    conversation.change_budget("60%", conversation.cache.method)
    conversation.sampling = Sampling(max_new_tokens=tokens)
    answers.append(said(conversation, LONG))
    conversation.sampling = Sampling()
    return conversation, [*answers, said(conversation, AFTER)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("columns", WIDTHS)
def test_conversation_from_start_to_a_new_process(start: Start, tmp_path: Path, columns: int) -> None:
    """An interrupted turn is kept exactly as far as it was said: the next answer is that of a run cut there."""
    terminal = start(str(scene_path()), "--model", "demo", "--device", "cpu", columns=columns)
    terminal.enter(FIRST)
    terminal.enter(SECOND)
    terminal.enter("/budget 60%")
    assert "budget 60%: the next question reads the conversation again" in words(terminal.text)
    terminal.enter("/stats")
    assert "model demo" in terminal.text

    terminal.child.send(f"{LONG}\r")
    terminal.wait_for("evicted")
    _require_live_view(terminal, columns)
    terminal.interrupt()
    terminal.wait_for("stopped; the answer is kept")
    terminal.wait_for_prompt()
    terminal.enter(AFTER)
    terminal.enter("/layers")
    terminal.enter("/save desk")
    terminal.enter(f"/export {tmp_path / 'talk.json'}")
    terminal.enter("/help")
    terminal.child.send("/exit\r")
    assert terminal.end() == 0

    talk = json.loads((tmp_path / "talk.json").read_text())
    turns: list[dict[str, Any]] = talk["turns"]
    assert [turn["question"] for turn in turns] == [FIRST, SECOND, LONG, AFTER]
    assert turns[2]["finish_reason"] == "interrupted"
    conversation, answers = replay(turns[2]["new_tokens"])
    assert [turn["answer"] for turn in turns] == answers
    assert len(answers[2]) < len(_whole_answer())
    assert talk["kv"]["layers"] == conversation.usage().as_dict()["layers"]
    _require_screen(terminal, columns, answers)

    later = start("--context", "desk", columns=columns)
    later.enter(LONG)
    later.enter("/load desk")
    later.enter(AFTER)
    later.enter(f"/export {tmp_path / 'later.json'}")
    later.child.send("\x04")
    assert later.end() == 0
    again = json.loads((tmp_path / "later.json").read_text())["turns"]
    assert [turn["answer"] for turn in again[:4]] == answers
    loaded = load_context(tmp_path / "home" / "contexts" / "desk.safetensors", conversation.loaded)
    assert again[4]["answer"] == said(conversation, AFTER) == said(loaded, AFTER)
    long_answer = said(load_context(tmp_path / "home" / "contexts" / "desk.safetensors", conversation.loaded), LONG)
    assert long_answer in words(later.text)
    assert "loaded desk: turns 4, pictures 1" in words(later.text)


def _whole_answer() -> str:
    return replay(512)[1][2]


def _require_live_view(terminal: Terminal, columns: int) -> None:
    """While the answer grows: bars of all eight layers, the totals, and the answer above them."""
    lines = terminal.lines
    bars = [line for line in lines if "█" in line and "/" in line]
    assert len(bars) == 8
    assert all(len(line) <= columns for line in lines)
    assert {len(bar.rstrip()) for bar in bars} <= {max(len(bar.rstrip()) for bar in bars)}
    assert any("█ picture ▓ text ▒ written · evicted" in line for line in lines)
    above = lines.index(bars[0])
    assert any(line.startswith("The ") for line in lines[:above])
    terminal.wait_for("tokens/s")
    assert any(re.match(r"kept .*% of the tokens · int\d, \d bits", line) for line in terminal.lines)
    assert any(re.match(r".* of .* · budget 60%: .* allowed", line) for line in terminal.lines)
    assert any(line.startswith("first token ") for line in terminal.lines)


def _require_screen(terminal: Terminal, columns: int, answers: list[str]) -> None:
    """What stays on the screen: answers whole and broken between words, tables in one piece, no live view."""
    lines = terminal.lines
    assert all(len(line) <= columns for line in lines)
    for question, answer in zip((FIRST, SECOND, LONG, AFTER), answers, strict=True):
        shown = lines[lines.index(f">>> {question}") + 1 :]
        text = words(
            " ".join(shown[: next(n for n, line in enumerate(shown) if line.startswith(("kept ", "stopped; ")))])
        )
        assert text == answer
    assert "evicted" not in terminal.text
    heading = next(n for n, line in enumerate(lines) if line.split()[:1] == ["layer"])
    assert lines[heading].split() == ["layer", "kept", "/", "seen", "kept", "bytes", "picture", "text", "written"]
    assert [line.split()[0] for line in lines[heading + 1 : heading + 9]] == [str(layer) for layer in range(8)]
    assert any(line.startswith("/budget X") for line in lines)


@pytest.mark.exhaustive
def test_commands_answer_in_the_terminal(start: Start, tmp_path: Path) -> None:
    terminal = start(str(scene_path()), "--model", "demo", "--device", "cpu", columns=120)
    bad = {
        "/nonsense": "command '/nonsense' is not known: /help lists what there is",
        "/undo": "there is no turn to take back: ask something first",
        "/budget 0%": "budget '0%' is outside (0%, 100%]",
        "/method xyz": "method 'xyz' is not known: choose one of",
        "/config nothing": "there is no config named 'nothing'",
        "/load nothing": "there is no context named 'nothing'",
        "/save": "/save needs NAME",
        "/save ../up": "name '../up' is not allowed",
        "/export talk.pdf": "give a name that ends in .md or .json",
        "/image missing.png": "image 'missing.png' does not exist",
        "/set warmth 1": "setting 'warmth' is not known: choose one of temperature, top-p, top-k",
        "/set temperature hot": "temperature 'hot' is not a number",
        "/set top-k": "top-k takes one value: write it as in `/set top-k 0`",
        "/set top-p 2": "top-p 2.0 is outside (0, 1]",
        "/clear all": "/clear takes nothing after it",
        "/show 3": "the cache has read no picture: ask about one first",
        "/show kept.jpg": "give a name that ends in .png or .html",
        "/model ./nowhere": "model './nowhere' is not there",
    }
    for line, says in bad.items():
        terminal.enter(line)
        shown = words(terminal.text.rsplit(f">>> {line}", 1)[-1])
        assert shown.startswith("error: "), line
        assert says in shown, line
    assert "demo · guided · budget 20% · " in terminal.text
    for line, says in {
        "/?": "/budget X",
        "/list": "contexts: none yet configurations: none yet",
        "/config": "configurations: none yet",
        "/system": "there is no system text",
        "/set": "temperature 0.0 · top-p 1.0 · top-k 0 · max-new-tokens 512 · seed random",
        "/set max-new-tokens 3": "max-new-tokens 3 ·",
        "/set max-new-tokens 512": "max-new-tokens 512 ·",
        "/model": "* demo bundled, knows drawn pictures only",
    }.items():
        terminal.enter(line)
        assert says in words(terminal.text.rsplit(f">>> {line}\n", 1)[-1]), line
    terminal.enter("/system Answer in one word.")
    terminal.enter(FIRST)
    terminal.enter("/retry")
    terminal.enter("/undo")
    assert "taken back: How many objects are there? (its pictures go with the next question)" in words(terminal.text)
    terminal.enter("/images")
    assert "336 x 336  next question" in terminal.text
    terminal.enter("/method")
    assert "* prefixkv" in terminal.text or "* guided" in terminal.text
    terminal.enter(SECOND)
    terminal.enter("/clear")
    terminal.enter(FIRST)
    terminal.enter(f"/export {tmp_path / 'talk.md'}")
    transcript = (tmp_path / "talk.md").read_text()
    assert transcript.count("## ") == 1
    assert FIRST in transcript
    assert "System: Answer in one word." in transcript
    terminal.child.send("/exit\r")
    assert terminal.end() == 0


def test_whatever_goes_wrong_in_a_line_the_conversation_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["first", "second"])
    asked: list[str] = []

    def read(self: object, status: object) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    def take(talk: object, line: str) -> None:
        asked.append(line)
        raise UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed")

    monkeypatch.setattr(conversation_loop.LineEditor, "__init__", lambda self, *options: None)
    monkeypatch.setattr(conversation_loop.LineEditor, "read", read)
    monkeypatch.setattr(conversation_loop, "take_line", take)
    monkeypatch.setattr(conversation_loop, "keep_last_conversation", lambda conversation: asked.append(conversation))
    talk: Any = SimpleNamespace(
        conversation="kept", show_header=lambda: None, status=lambda: "", has_new_turns=lambda: True
    )
    conversation_loop.converse(lambda: talk, "demo", behind=False)
    assert asked == ["first", "second", "kept"]
    assert capsys.readouterr().err.count("error: a name or a text holds bytes that are no UTF-8") == 2
    # Who has asked nothing replaces no conversation that was kept before.
    talk.has_new_turns = lambda: False
    conversation_loop.converse(lambda: talk, "demo", behind=False)
    assert asked == ["first", "second", "kept"]


def test_help_and_leaving_wait_for_no_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, is_over = iter(["/help", "/?", "/bye"]), threading.Event()

    def load() -> Any:
        is_over.wait(60)
        raise PrefixKVError("nobody takes this")

    monkeypatch.setattr(conversation_loop.LineEditor, "__init__", lambda self, *options: None)
    monkeypatch.setattr(conversation_loop.LineEditor, "read", lambda self, status: next(lines))
    monkeypatch.setattr(conversation_loop.LineEditor, "interrupt", lambda self, work: None)
    assert conversation_loop.converse(load, "demo", behind=True) is None
    is_over.set()
    assert capsys.readouterr().err.count("/budget X") == 2
