"""Bad input gets one clear line, the right exit code and no traceback; at once where no model is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.loaded_modules import Loaded, what_is_loaded
from tests.cli.program import Run


def _write_broken_pictures(folder: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    noise.save(folder / "good.png")
    for suffix in ("jpg", "png"):
        noise.save(folder / f"cut.{suffix}")
        whole = (folder / f"cut.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("this is text\n")
    (folder / "empty.png").touch()
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "nothing").mkdir()


BAD = [
    # arguments, exit code, what the line says
    (["missing.png"], 1, "'missing.png' does not exist"),
    (["text.png"], 1, "'text.png' is no picture"),
    (["cut.jpg"], 1, "'cut.jpg' is broken or cut off"),
    (["cut.png"], 1, "'cut.png' is broken or cut off"),
    (["empty.png"], 1, "'empty.png' is empty"),
    (["bomb.png"], 1, "400,000,000 pixels"),
    (["nothing"], 1, "'nothing' is a folder"),
    (["good.png", "missing.png"], 1, "'missing.png' does not exist"),
    (["good.png", "--model", "./nothing"], 1, "holds no model"),
    (["good.png", "--model", "./missing"], 1, "is not there"),
    (["--model", "demo"], 1, "demo-scene"),
    (["good.png", "--budget", "0%"], 2, "20%"),
    (["good.png", "--budget", "120%"], 2, "20%"),
    (["good.png", "--budget", "-1GB"], 2, "20%"),
    (["good.png", "--budget", "abc"], 2, "20%"),
    (["good.png", "--budget=-1GB"], 2, "4GB"),
    (["good.png", "--method", "prefixvk"], 2, "did you mean 'prefixkv'"),
    (["good.png", "--method", "zzz"], 2, "choose one of full"),
    (["good.png", "--device", "gpu"], 2, "cuda:N"),
    (["good.png", "--dtype", "int8"], 2, "bfloat16"),
    (["good.png", "--temperature", "-1"], 2, "temperature -1"),
    (["good.png", "--top-p", "2"], 2, "top-p 2"),
    (["good.png", "--max-new-tokens", "0"], 2, "max-new-tokens 0"),
    (["good.png", "--max-new-tokens", "many"], 2, "--max-new-tokens"),
    (["good.png", "--seed", "-5"], 2, "seed -5"),
    (["good.png", "--buget", "20%"], 2, "--budget"),
    (["good.png", "--prompt", " "], 2, "prompt is empty"),
    # Options come before pictures.
    (["missing.png", "--budget", "abc"], 2, "budget 'abc'"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    _write_broken_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def refused(folder: Path) -> list[Loaded]:
    """What each of `BAD` prints, and what it loads before that."""
    prompts = [[] if "--prompt" in arguments else ["--prompt", "hello"] for arguments, *_ in BAD]
    return what_is_loaded([["chat", *row[0], *prompt] for row, prompt in zip(BAD, prompts, strict=True)], cwd=folder)


@pytest.mark.parametrize("number", range(len(BAD)), ids=[" ".join(row[0]) for row in BAD])
def test_chat_refuses_bad_input_in_one_line_before_it_loads_torch(refused: list[Loaded], number: int) -> None:
    _, exit_code, says = BAD[number]
    done = refused[number]
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.modules & {"torch", "transformers", "accelerate"} == set()


def test_chat_without_prompt_and_without_terminal_says_what_is_needed(run: Run, folder: Path) -> None:
    done = run("chat", "good.png", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--prompt" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["out.jpg"], 2, "ends in .png"),
        (["out.png", "--seed", "-1"], 2, "seed -1"),
        (["missing/out.png"], 1, "does not exist"),
        (["good.png/out.png"], 1, "good.png"),
        ([], 2, "OUT.png"),
    ],
)
def test_demo_scene_refuses_bad_input_in_one_line(
    run: Run, folder: Path, arguments: list[str], exit_code: int, says: str
) -> None:
    done = run("demo-scene", *arguments, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1)
    assert says in done.stderr


def test_unknown_command_gets_a_suggestion(run: Run) -> None:
    done = run("chta")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "'chat'" in done.stderr


def test_budget_that_cannot_hold_the_protected_entries_exits_with_3(
    run: Run, picture: Path, model_folder: Path
) -> None:
    done = run("chat", str(picture), "-p", "ba", "--model", str(model_folder), "--budget", "100B")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "give at least" in done.stderr


def test_debug_shows_the_traceback(run: Run) -> None:
    done = run("--debug", "chat", "missing.png", "-p", "hello")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
