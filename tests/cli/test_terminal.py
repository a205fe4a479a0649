"""`prefixkv chat` in a real pseudo-terminal: the live table, and a conversation."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.cli.conftest import ENVIRONMENT, PROGRAM

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7])m")
READY = r"\x1b\[\?2004h[^\n]*>>>"
"""Line editing begins, and the prompt is there."""
Start = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def start(picture: Path, model_folder: Path) -> Iterator[Start]:
    children: list[pexpect.spawn[str]] = []

    def start(*arguments: str, shell: str = "", **environment: str) -> pexpect.spawn[str]:
        words = [*PROGRAM, "chat", str(picture), "--model", str(model_folder), *arguments]
        child = pexpect.spawn(
            "/bin/sh",
            ["-c", f'exec "$0" "$@" {shell}', *words],
            encoding="utf-8",
            timeout=60,
            dimensions=(30, 100),
            env={**ENVIRONMENT, **environment},
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def _rest(child: pexpect.spawn[str]) -> str:
    child.expect(pexpect.EOF)
    child.close()
    return child.before


def test_answer_in_a_terminal_has_a_live_table_and_ends_whole(start: Start) -> None:
    child = start("-p", "ba be bi", "--max-new-tokens", "150")
    child.expect("reading")
    seen = _rest(child)
    assert child.exitstatus == 0
    # The table was redrawn in place meanwhile ...
    assert len(re.findall("kept / seen", seen)) >= 2
    assert "\x1b[2K" in seen
    # ... and what stays is the whole answer, then the table.
    stays = ESCAPE.sub("", seen[seen.rindex("\x1b[2K") :])
    answer, table = stays.split("layer", 1)
    assert len(answer.split()) == 150
    assert "saved" in table


def test_answer_stays_plain_where_only_stderr_is_a_terminal(start: Start, tmp_path: Path) -> None:
    child = start("-p", "ba be bi", "--max-new-tokens", "80", shell=f"> {tmp_path / 'answer'}")
    assert "kept / seen" in _rest(child)
    answer = (tmp_path / "answer").read_text()
    assert "\x1b" not in answer
    assert len(answer.split()) == 80


def test_no_color_leaves_no_colour(start: Start) -> None:
    coloured = start("--budget", "abc")
    assert COLOUR.search(_rest(coloured))
    plain = start("--budget", "abc", NO_COLOR="1")
    assert not COLOUR.search(_rest(plain))


def test_conversation_has_turns_commands_and_survives_an_interrupt(start: Start) -> None:
    child = start("--max-new-tokens", "4000")
    child.expect(READY)
    child.send("ba be bi\r")
    child.expect("kept / seen")
    time.sleep(0.5)
    child.sendintr()
    child.expect("stopped")
    child.expect(r"kept .* of .*saved")
    child.expect(READY)
    child.send("/stats\r")
    child.expect(r" 3 +(\d+) / (\d+) ")
    first_seen = int(child.match[2])
    assert first_seen > 9
    child.expect(READY)
    child.send("bo bu\r")
    child.expect("kept / seen")
    child.sendintr()
    child.expect("stopped")
    child.expect(READY)
    child.send("/stats\r")
    child.expect(r" 3 +(\d+) / (\d+) ")
    assert int(child.match[2]) > first_seen
    child.expect(READY)
    child.send("/nonsense\r")
    child.expect("/help")
    child.expect(READY)
    child.send("/clear\r")
    child.expect("new conversation")
    child.expect(READY)
    child.sendintr()
    child.expect("once more")
    child.expect(READY)
    child.sendeof()
    _rest(child)
    assert child.exitstatus == 0


def test_interrupting_a_single_answer_exits_with_130(start: Start) -> None:
    child = start("-p", "ba be bi", "--max-new-tokens", "4000")
    child.expect("kept / seen")
    child.sendintr()
    seen = _rest(child)
    assert child.exitstatus == 130
    assert "Traceback" not in seen
