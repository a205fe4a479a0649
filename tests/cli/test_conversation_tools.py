"""What stands around a conversation: the line below the prompt, descriptions, the editor, the map of what is kept."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.chat.kept_patches import KeptPatches
from prefixkv.demo import scene_path
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.images import open_image
from prefixkv_cli.dialogue import line_editor
from prefixkv_cli.dialogue.kept_view import kept_view
from prefixkv_cli.dialogue.line_editor import CommandCompletion, _complete, _LineCompleter
from prefixkv_cli.dialogue.model_switch import switch_model
from prefixkv_cli.dialogue.status_bar import status_bar
from prefixkv_cli.dialogue.talk import Talk
from tests.cli.screen import Terminal, home_of


@pytest.mark.exhaustive
def test_toolbar_descriptions_editor_and_map_in_a_terminal(picture: Path, model_folder: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "%s\\nbi bo\\n" "$(cat "$1")" > "$1"\n')
    editor.chmod(0o755)
    words = ["chat", str(picture), "--model", str(model_folder), "--method", "prefixkv", "--max-new-tokens", "3"]
    terminal = Terminal(words, 110, cursor_reports=True, VISUAL=str(editor), **home_of(tmp_path / "home"))
    terminal.wait_for("Ask ")
    terminal.wait_for("nothing read yet")
    assert f"{model_folder.name} · prefixkv · budget 20% · nothing read yet" in terminal.text
    # A slash alone offers the commands with what they do; a method has its summary beside it.
    terminal.child.send("/")
    terminal.wait_for("the pictures so far")
    terminal.child.send("method h")
    terminal.wait_for("accumulated attention")
    terminal.child.send("\x15ba be\r")
    terminal.wait_for(r"used · \d+% of \d+ tokens kept")
    terminal.child.send("/edit bu\r")
    terminal.wait_for("bi bo")
    terminal.wait_for(r"used · \d+% of \d+ tokens kept")
    terminal.child.send("/show\r")
    terminal.wait_for("kept by no kv head")
    terminal.wait_for("nothing read yet|tokens kept")
    terminal.child.send(f"/export {tmp_path}/talk.md\r")
    terminal.wait_for("wrote ")
    terminal.child.send("\x04")
    assert terminal.end() == 0
    assert "## ba be" in (tmp_path / "talk.md").read_text()
    assert "## bu\nbi bo" in (tmp_path / "talk.md").read_text()


def test_tab_needs_no_menu() -> None:
    """Typed right behind a letter, before the menu is there, it completes all the same."""
    commands = {name: CommandCompletion("what it does") for name in ("/clear", "/image", "/images")}
    opened: list[str] = []
    for typed, completed in (("/cl", "/clear"), ("/i", "/image"), ("/image", "/image"), ("/z", "/z")):
        buffer = Buffer(completer=_LineCompleter(commands))
        buffer.insert_text(typed)
        buffer.start_completion = partial(opened.append, typed)  # type: ignore[method-assign]
        _complete(buffer)
        assert buffer.text == completed
    # Only where there is a choice left does the menu open.
    assert opened == ["/image"]


def test_what_is_to_be_said_before_a_line_begins_is_said_above_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where a model is loaded sooner than the first line is there, or between two of them."""
    with create_pipe_input() as keyboard:
        monkeypatch.setattr(line_editor, "create_input", lambda **options: keyboard)
        monkeypatch.setattr(line_editor, "create_output", lambda **options: DummyOutput())
        editor = line_editor.LineEditor({}, tmp_path / "history")
        said: list[str] = []
        editor.interrupt(lambda: said.append("header"))
        editor.interrupt(lambda: editor.end(PrefixKVError("no weights")))
        enter = threading.Timer(10, keyboard.send_text, ["never\r"])
        enter.start()
        with pytest.raises(PrefixKVError, match="no weights"):
            editor.read(lambda: "")
        enter.cancel()
    assert said == ["header"]


def test_a_map_has_a_cell_for_each_patch_and_fits_the_width() -> None:
    kept = np.zeros((2, 3, 4), dtype=np.float32)
    kept[1] = [[0, 0.25, 0.5, 1]] * 3
    pixels = np.full((30, 40, 3), 200, dtype=np.uint8)

    def drawn(layer: int | None, width: int) -> list[str]:
        console = Console(width=width, no_color=True)
        with console.capture() as captured:
            console.print(kept_view([KeptPatches(pixels, kept, (8, 8))], layer, width))
        return captured.get().splitlines()

    assert drawn(1, 60)[:3] == ["··▒▒▓▓██"] * 3
    assert drawn(0, 60)[:3] == ["········"] * 3
    assert drawn(None, 60)[:3] == ["··░░▒▒▓▓"] * 3
    assert drawn(1, 7)[:3] == ["·▒▓█"] * 3
    with pytest.raises(OptionError, match="layer 2 is none of this model's: give 0 to 1"):
        drawn(2, 60)


@pytest.fixture(scope="module")
def asked() -> Conversation:
    conversation = Conversation(prefixkv.load_model("demo", device="cpu"), "20%", sampling=Sampling(max_new_tokens=4))
    conversation.attach(open_image(scene_path()))
    assert status_bar(conversation) == "demo · guided · budget 20% · nothing read yet"
    list(conversation.ask("How many objects are there?"))
    return conversation


def test_another_model_goes_on_with_the_pictures(asked: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    loaded: dict[str, Any] = {"other": asked.loaded}
    talk = Talk(asked, load=loaded.__getitem__)
    assert not talk.has_new_turns()
    switch_model(talk, "other")
    fresh = talk.conversation
    assert fresh is not asked
    assert (len(fresh.history), len(fresh.waiting), fresh.cache.budget.text) == (0, 1, "20%")
    assert fresh.sampling.max_new_tokens == 4
    said = capsys.readouterr().err
    assert "model demo; 1 turns are put aside; 1 pictures go with the next question" in " ".join(said.split())
    assert talk.has_new_turns()
    with pytest.raises(PrefixKVError, match="there is no other model"):
        switch_model(Talk(asked), "other")


def test_a_model_without_pictures_says_that_they_are_left_out(
    asked: Conversation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text_only = SimpleNamespace(
        **{name: getattr(asked.loaded, name) for name in ("model", "identity", "processor", "id")}
    )
    text_only.takes_images = False
    talk = Talk(asked, load=lambda name: text_only)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(
        "prefixkv.chat.conversation.Reader", lambda *arguments: SimpleNamespace(cache=asked.cache, restart=lambda: None)
    )
    switch_model(talk, "other")
    assert talk.conversation.waiting == ()
    assert "it reads no images: the pictures are left out" in " ".join(capsys.readouterr().err.split())


def test_the_header_has_what_was_said_last(asked: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    Talk(asked).show_header()
    said = capsys.readouterr().err
    assert "turns so far 1:" in said
    assert f"  > How many objects are there?\n    {asked.history[0][1].text.strip()}\n" in said
