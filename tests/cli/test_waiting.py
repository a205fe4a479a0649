"""Something is on the screen while a command starts and loads, and nothing of it in a pipe or behind what follows."""

from __future__ import annotations

import gc
import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from prefixkv_cli import model_loading, output, waiting_sign
from prefixkv_cli.collector import collect_as_usual
from prefixkv_cli.waiting_sign import end_sign, show_sign, show_start


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> _Screen:
    screen = _Screen()
    monkeypatch.setattr(waiting_sign, "sys", SimpleNamespace(stderr=screen))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(waiting_sign, "_is_shown", False)
    return screen


@pytest.mark.parametrize(
    ("words", "is_shown"),
    [
        (["chat", "a.png"], True),
        (["--debug", "bench"], True),
        (["chat", "--help"], False),
        (["profile", "list"], False),
        (["batch", "a.jsonl", "-q"], False),
        (["models"], False),
        ([], False),
    ],
)
def test_commands_that_load_a_model_say_so_at_once(screen: _Screen, words: list[str], is_shown: bool) -> None:
    show_start(words)
    assert screen.getvalue() == ("\r\x1b[Kstarting ..." if is_shown else "")


@pytest.mark.parametrize("name", ["plain", "quiet"])
def test_variables_and_the_settings_file_leave_it_out_as_options_do(
    screen: _Screen, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path))
    monkeypatch.setenv(f"PREFIXKV_{name.upper()}", "1")
    show_start(["chat"])
    assert screen.getvalue() == ""
    (tmp_path / "settings.toml").write_text(f"{name} = true\n")
    # The variable wins over the file.
    monkeypatch.setenv(f"PREFIXKV_{name.upper()}", "0")
    show_start(["chat"])
    assert screen.getvalue()
    screen.truncate(0)
    monkeypatch.delenv(f"PREFIXKV_{name.upper()}")
    monkeypatch.setattr(waiting_sign, "_is_shown", False)
    show_start(["chat"])
    assert not screen.getvalue().strip("\0")
    # What is wrong with the file is said later.
    (tmp_path / "settings.toml").write_text("plain =")
    show_start(["chat"])
    assert screen.getvalue().endswith("starting ...")


def test_it_is_gone_before_anything_else_is_said(screen: _Screen, capsys: pytest.CaptureFixture[str]) -> None:
    for say in (lambda: output.notice("so"), lambda: output.write_text("so"), lambda: output.show("so")):
        show_sign("loading demo")
        screen.truncate(0)
        say()
        assert screen.getvalue().lstrip("\0").startswith("\r\x1b[K")
    screen.truncate(0)
    end_sign()
    assert screen.getvalue() == ""


def test_a_pipe_and_a_dumb_terminal_have_none(monkeypatch: pytest.MonkeyPatch, screen: _Screen) -> None:
    monkeypatch.setenv("TERM", "dumb")
    show_start(["chat"])
    assert screen.getvalue() == ""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(screen, "isatty", lambda: False)
    show_start(["chat"])
    assert screen.getvalue() == ""


def test_cycles_are_collected_as_usual_from_the_loaded_model_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is there by then, such as the modules of torch, is never walked over again."""
    collect_as_usual()
    gc.unfreeze()
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    seen: list[tuple[int, int, int]] = []
    monkeypatch.setattr(model_loading, "load_model", lambda *options: seen.append(gc.get_threshold()))
    try:
        model_loading.load_shown("demo", shown=False)
        assert seen[0][0] > 100 * usual[0]
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > frozen == 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)
