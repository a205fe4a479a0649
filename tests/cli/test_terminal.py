"""`prefixkv chat` in a real pseudo-terminal: one answer with its live view, colours, interrupts, lines of input."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from prefixkv.chat.context_file import read_head
from tests.cli.program import ENVIRONMENT, PROGRAM
from tests.cli.screen import Terminal

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7])m")
Start = Callable[..., Terminal]


@pytest.fixture
def start(picture: Path, model_folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Start `chat` on a small random model."""
    started: list[Terminal] = []

    def start(*arguments: str, columns: int = 100, **environment: str) -> Terminal:
        # A method that wants no profile, and so has nothing to say about a model that has none.
        words = ["chat", str(picture), "--model", str(model_folder), "--method", "prefixkv", *arguments]
        home = {"PREFIXKV_HOME": str(tmp_path / "home")}
        started.append(Terminal(words, columns, **home, **environment))
        return started[-1]

    yield start
    for terminal in started:
        terminal.child.close(force=True)


def test_answer_in_a_terminal_has_a_live_view_and_ends_whole(start: Start) -> None:
    terminal = start("-p", "ba be bi", "--max-new-tokens", "200")
    terminal.wait_for("reading")
    assert terminal.end() == 0
    # The view was redrawn in place meanwhile ...
    assert len(re.findall(r"evicted", terminal.raw)) >= 2
    assert "\x1b[2K" in terminal.raw
    # ... and what stays is the whole answer, then the table.
    answer, table = terminal.text.split("layer", 1)
    assert len(answer.split()) == 200
    assert "evicted" not in terminal.text
    assert "allocated" in table


@pytest.mark.exhaustive
def test_answer_stays_plain_where_only_stderr_is_a_terminal(picture: Path, model_folder: Path, tmp_path: Path) -> None:
    words = [*PROGRAM, "chat", str(picture), "--model", str(model_folder), "-p", "ba be bi", "--max-new-tokens", "80"]
    child: pexpect.spawn[str] = pexpect.spawn(
        "/bin/sh",
        ["-c", f'exec "$0" "$@" > {tmp_path / "answer"}', *words],
        encoding="utf-8",
        timeout=400,
        dimensions=(30, 100),
        env=ENVIRONMENT,
    )
    child.expect(pexpect.EOF)
    assert "kept / seen" in child.before
    answer = (tmp_path / "answer").read_text()
    assert "\x1b" not in answer
    assert len(answer.split()) == 80


@pytest.mark.exhaustive
def test_plain_and_quiet_show_nothing_but_the_answer(start: Start) -> None:
    for option in ("--plain", "--quiet"):
        terminal = start("-p", "ba be bi", "--max-new-tokens", "60", option)
        assert terminal.end() == 0
        assert "\x1b[2K" not in terminal.raw
        # A terminal that is written to as it is breaks lines anywhere.
        shown = ESCAPE.sub("", terminal.raw).split("layer")[0]
        assert len(shown.split()) == 60
    assert "layer" not in terminal.text


@pytest.mark.exhaustive
def test_no_color_leaves_no_colour(start: Start) -> None:
    coloured = start("-p", "ba be bi", "--max-new-tokens", "150")
    assert coloured.end() == 0
    assert COLOUR.search(coloured.raw)
    plain = start("-p", "ba be bi", "--max-new-tokens", "150", NO_COLOR="1")
    assert plain.end() == 0
    assert not COLOUR.search(plain.raw)
    assert "█" in plain.raw


@pytest.mark.exhaustive
def test_interrupting_a_single_answer_exits_with_130(start: Start) -> None:
    terminal = start("-p", "ba be bi", "--max-new-tokens", "4000")
    terminal.wait_for("evicted")
    terminal.interrupt()
    assert terminal.end() == 130
    assert "Traceback" not in terminal.text


def test_interrupt_at_the_prompt_clears_a_line_and_asks_before_it_leaves(start: Start, tmp_path: Path) -> None:
    terminal = start("--max-new-tokens", "5")
    terminal.wait_until_loaded()
    terminal.child.send("ba be")
    terminal.wait_for("be")
    terminal.interrupt()
    terminal.wait_for_prompt()
    terminal.interrupt()
    terminal.wait_for("press Ctrl-C again, or /bye, to leave")
    terminal.wait_for_prompt()
    # A line in between means that the user stays: the next Ctrl-C asks again.
    terminal.enter("ba be")
    terminal.interrupt()
    terminal.wait_for("press Ctrl-C again")
    terminal.wait_for_prompt()
    terminal.interrupt()
    terminal.wait_for("the conversation is kept: go on with `prefixkv chat --continue`")
    assert terminal.end() == 130
    assert (tmp_path / "home" / "last.safetensors").exists()


@pytest.mark.exhaustive
def test_last_conversation_goes_on_and_one_without_turns_does_not_replace_it(
    start: Start, model_folder: Path, tmp_path: Path
) -> None:
    terminal = start("--max-new-tokens", "5")
    terminal.wait_until_loaded()
    terminal.enter("ba be")
    terminal.child.send("/bye\r")
    assert terminal.end() == 0
    kept = (tmp_path / "home" / "last.safetensors").read_bytes()
    silent = start()
    silent.wait_until_loaded()
    silent.child.send("\x04")
    assert silent.end() == 0
    assert "is kept" not in silent.text
    assert (tmp_path / "home" / "last.safetensors").read_bytes() == kept
    words = ["chat", "--continue", "--model", str(model_folder), "--max-new-tokens", "5"]
    later = Terminal(words, 100, PREFIXKV_HOME=str(tmp_path / "home"))
    later.wait_until_loaded()
    later.enter("bi bo")
    later.enter(f"/export {tmp_path}/talk.json")
    # Under another budget nothing is read yet: the pictures are, so that there is something to be written.
    later.enter("/budget 50%")
    later.child.send("/bye\r")
    assert later.end() == 0
    assert "reading the pictures again, to keep the conversation" in " ".join(later.text.split())
    again = read_head(tmp_path / "home" / "last.safetensors")
    assert [turn["question"] for turn in again["turns"]] == ["ba be", "bi bo"]
    assert again["budget"]["text"] == "50%"
    turns = json.loads((tmp_path / "talk.json").read_text())["turns"]
    assert [turn["question"] for turn in turns] == ["ba be", "bi bo"]


@pytest.mark.exhaustive
def test_the_prompt_is_there_before_the_model(start: Start, model_folder: Path, tmp_path: Path) -> None:
    """A question that is typed meanwhile is answered; leaving waits for nothing; what goes wrong ends the line."""
    early = start("--max-new-tokens", "3")
    early.wait_for_prompt()
    assert "what else there is" not in early.text
    early.child.send("ba be\r")
    early.wait_for("loading ")
    early.wait_for("what else there is")
    early.wait_for_prompt()
    assert "kept" in early.text
    early.child.send("/bye\r")
    assert early.end() == 0

    leaving = start()
    leaving.wait_for_prompt()
    leaving.child.send("/bye\r")
    assert leaving.end() == 0
    assert "what else there is" not in leaving.text

    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    failing = start("--model", str(broken))
    failing.wait_for_prompt()
    # Nothing is typed: the program ends by itself.
    assert failing.end() == 1
    assert "error: model.safetensors is no safetensors file" in failing.text
    assert "Traceback" not in failing.text


@pytest.mark.exhaustive
def test_leaving_by_end_of_file_and_by_command_exits_with_0(start: Start) -> None:
    for line in ("\x04", "/exit\r", "exit\r"):
        terminal = start()
        terminal.wait_until_loaded()
        terminal.child.send(line)
        assert terminal.end() == 0


@pytest.mark.exhaustive
def test_interrupted_answer_is_kept_and_the_conversation_goes_on(start: Start) -> None:
    terminal = start("--max-new-tokens", "4000")
    terminal.wait_until_loaded()
    seen = []
    for question in ("ba be bi", "bo bu"):
        terminal.child.send(f"{question}\r")
        terminal.wait_for("evicted")
        time.sleep(0.3)
        terminal.interrupt()
        terminal.wait_for("stopped; the answer is kept")
        terminal.wait_for_prompt()
        terminal.child.send("/layers\r")
        seen.append(int(terminal.wait_for(r" 3 +(\d+) / (\d+) ")[2]))
        terminal.wait_for_prompt()
    assert 9 < seen[0] < seen[1]


@pytest.mark.exhaustive
def test_lines_of_input_history_and_completion(start: Start, tmp_path: Path) -> None:
    terminal = start("--max-new-tokens", "5", columns=200)
    terminal.wait_until_loaded()
    terminal.enter('"""ba be\rbi bo"""')
    terminal.enter("ba \\\rbe")
    terminal.enter("ba\x1b\rbu")
    # The arrow brings an earlier line back; Tab completes a command and a picture's path.
    terminal.enter("\x1b[A")
    (tmp_path / "only.png").write_bytes((tmp_path / "picture.png").read_bytes())
    terminal.child.send("/imag")
    # The menu, whose first line Tab takes.
    terminal.wait_for("/images")
    terminal.child.send("\t")
    terminal.child.send(f" {tmp_path}/onl")
    terminal.wait_for("/onl")
    terminal.child.send("\t")
    terminal.wait_for("y.png")
    terminal.enter("")
    terminal.enter(f"/export {tmp_path}/talk.json")
    terminal.child.send("/ex\t\t")
    terminal.wait_for("/export.*/exit|/exit")
    terminal.child.send("\x15/exit\r")
    assert terminal.end() == 0
    turns = json.loads((tmp_path / "talk.json").read_text())["turns"]
    assert [turn["question"] for turn in turns] == ["ba be\nbi bo", "ba \nbe", "ba\nbu", "ba\nbu"]
    assert "only.png (256 x 256)" in terminal.text
    history = (tmp_path / "home" / "history").read_text()
    assert "bi bo" in history


@pytest.mark.exhaustive
def test_dropped_pictures_are_understood(start: Start, tmp_path: Path) -> None:
    data = (tmp_path / "picture.png").read_bytes()
    for name in ("two words.png", "it's.png", "third.png"):
        (tmp_path / name).write_bytes(data)
    terminal = start("--max-new-tokens", "5", columns=200)
    terminal.wait_until_loaded()
    escaped = str(tmp_path / "two words.png").replace(" ", "\\ ")
    for line in (
        escaped,
        f"'{tmp_path / 'two words.png'}' ",
        f'"{tmp_path}/it\'s.png"',
        f"file://{str(tmp_path).replace(' ', '%20')}/two%20words.png",
        f"ba be {tmp_path / 'third.png'} bi",
    ):
        terminal.enter(line)
    terminal.enter("/images")
    listed = terminal.text.split("/images")[-1]
    assert listed.count("two words.png") == 3
    assert listed.count("it's.png") == 1
    assert listed.count("third.png") == 1
    terminal.enter(f"/export {tmp_path}/talk.json")
    assert '"question": "ba be bi"' in (tmp_path / "talk.json").read_text()
    terminal.enter(f"{tmp_path}/missing.png")
    assert "missing.png' does not exist" in " ".join(terminal.text.split("\n"))


@pytest.mark.exhaustive
def test_conversation_about_a_piped_picture_reads_the_keyboard(
    picture: Path, model_folder: Path, tmp_path: Path
) -> None:
    words = [*PROGRAM, "chat", "-i", "-", "--model", str(model_folder), "--max-new-tokens", "5"]
    child: pexpect.spawn[str] = pexpect.spawn(
        "/bin/sh",
        ["-c", f'"$0" "$@" < {picture}', *words],
        encoding="utf-8",
        timeout=400,
        dimensions=(30, 100),
        env={**ENVIRONMENT, "PREFIXKV_HOME": str(tmp_path / "home")},
    )
    child.expect(r"\x1b\[\?2004h")
    child.expect(">>>")
    child.send("/images\r")
    child.expect("stdin  256 x 256  next question")
    child.expect(">>>")
    child.send("ba be\r")
    child.expect("kept .* of ")
    child.expect(">>>")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
