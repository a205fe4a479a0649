"""Help, reference page and completion of every command."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from prefixkv_cli.help_panels import PANELS, panel_of
from prefixkv_cli.program import app
from prefixkv_cli.reference import reference
from tests.cli.loaded_modules import Loaded, what_is_loaded
from tests.cli.program import ENVIRONMENT, PROGRAM

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "accelerate", "numpy", "PIL", "matplotlib", "safetensors", "huggingface_hub"}


def _commands() -> Iterator[tuple[str, Any, typer.Context]]:
    root = typer.main.get_command(app)
    pending = [(root, typer.Context(root, info_name="prefixkv"))]
    while pending:
        command, context = pending.pop()
        yield context.command_path, command, context
        for name, inner in getattr(command, "commands", {}).items():
            pending.append((inner, typer.Context(inner, info_name=name, parent=context)))


COMMANDS = sorted(_commands(), key=lambda found: found[0])
per_command = pytest.mark.parametrize(("path", "command", "context"), COMMANDS, ids=[path for path, *_ in COMMANDS])


@pytest.fixture(scope="module")
def page() -> str:
    """The reference page as the help says it now."""
    return reference()


@pytest.fixture(scope="module")
def helped() -> dict[str, Loaded]:
    """What every command's help prints, and what it loads."""
    paths = [path for path, *_ in COMMANDS]
    return dict(zip(paths, what_is_loaded([[*path.split()[1:], "--help"] for path in paths]), strict=True))


@per_command
def test_help_has_an_example_and_loads_nothing_heavy(
    path: str, command: Any, context: Any, helped: dict[str, Loaded]
) -> None:
    done = helped[path]
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"Example: {path.split()[0]}" in done.stdout
    assert done.modules & HEAVY == set()


@per_command
def test_help_is_legible_at_60_columns(path: str, command: Any, context: Any) -> None:
    """Nothing is cut, every option's name is whole, and no line is spent on an environment variable."""
    words, state = [*path.split()[1:], "--help"], SimpleNamespace(debug=False)
    done = CliRunner().invoke(app, words, env={"COLUMNS": "60"}, prog_name="prefixkv", obj=state)
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "[default: (" not in done.stdout
    assert not [cut for cut in ("…", "PREFIXKV_", "<bool>", "<str>", "<list") if cut in done.stdout]
    for parameter in command.get_params(context):
        if parameter.param_type_name == "option":
            assert any(re.search(rf"^│ .*{name}\b", done.stdout, re.MULTILINE) for name in parameter.opts)


def test_panels_name_options_that_there_are() -> None:
    options = {name for _, command, context in COMMANDS for each in command.get_params(context) for name in each.opts}
    assert {name for names in PANELS.values() for name in names} <= options
    chat = next(command for path, command, _ in COMMANDS if path == "prefixkv chat")
    panels = [panel_of(parameter) for parameter in chat.get_params(typer.Context(chat))]
    assert list(dict.fromkeys(panels)) == [None, *PANELS]


BATCH_ONLY = ((), ("--prompt", "-p"))
"""Texts with white space, of which there may be several, are split where a variable gives them."""
OTHER_MEANING = {f"prefixkv {name}": ("PREFIXKV_SCENE_SEED",) for name in ("profile", "demo-scene")}
"""Their seed draws scenes, not answers."""


@per_command
def test_every_option_has_an_environment_variable_of_its_own(path: str, command: Any, context: Any, page: str) -> None:
    """The same option has the same variable in every command; leave to run foreign code is given each time anew."""
    options = [
        parameter
        for parameter in command.get_params(context)
        if parameter.param_type_name == "option" and not parameter.is_eager
    ]
    without = {name for parameter in options if parameter.envvar is None for name in parameter.opts}
    allowed = {"--trust-remote-code", "--stop", "--template-arg", *BATCH_ONLY[path == "prefixkv batch"]}
    # What removes everything, or lets a server fetch for its clients, is said each time anew, too.
    more = {"prefixkv log remove": {"--all"}, "prefixkv serve": {"--allow-addresses"}}
    assert without <= allowed | more.get(path, set())
    variables = [parameter.envvar for parameter in options if parameter.envvar is not None]
    for parameter in options:
        names = {f"PREFIXKV_{name[2:].replace('-', '_').upper()}" for name in parameter.opts}
        assert parameter.envvar in {None, *names, *OTHER_MEANING.get(path, ())}
    assert len(set(variables)) == len(variables)
    assert all(f"`{variable}`" in page for variable in variables)


def test_every_example_is_a_command_line_that_is_understood(page: str) -> None:
    """Its command and options exist; nothing is run."""
    examples = re.findall(r"^\$ (prefixkv .*)$", page, re.MULTILINE)
    usages = [example for example in examples if "[OPTIONS]" in example or "[ARGS]" in example]
    assert len(examples) > len(usages) > 5
    root = typer.main.get_command(app)
    for example in set(examples) - set(usages):
        command, words = root, shlex.split(re.split(r"[|>]", example)[0])[1:]
        while getattr(command, "commands", None) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not root, example
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        # What follows `--` is handed on.
        words = words[: words.index("--")] if "--" in words else words
        given = {word.split("=")[0] for word in words if word.startswith("-") and word != "-"}
        assert given <= known, example


def test_reference_page_is_what_the_help_says_now(page: str) -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page, "docs/cli.md is stale: run `make docs`"


def _completed(folder: Path, *lines: list[str]) -> list[list[str]]:
    """What a real bash offers for the last word of each line."""
    program = folder / "prefixkv"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    complete = '_prefixkv_completion prefixkv; echo "${COMPREPLY[@]}"'
    asked = [f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}; {complete}" for words in lines]
    script = "\n".join(["source <(prefixkv completion bash)", *asked])
    environment = {**ENVIRONMENT, "PATH": f"{folder}:{ENVIRONMENT['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    return [offered.split() for offered in done.stdout.splitlines()]


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    values = {
        "--method h": ["h2o"],
        "--model llava-o": ["llava-onevision"],
        "--device cu": ["cuda"],
        "--dtype b": ["bfloat16"],
        "--budget 5": ["50%", "5%", "512MiB"],
    }
    commands, option, *offered = _completed(
        tmp_path,
        ["prefixkv", "co"],
        ["prefixkv", "chat", "--json-l"],
        *(["prefixkv", "chat", *words.split()] for words in values),
    )
    assert {"completion", "configs", "contexts"} <= set(commands)
    assert option == ["--json-lines"]
    assert offered == list(values.values())


def test_a_shell_that_completes_does_not_wait_for_what_answers_need() -> None:
    """Neither values are made of the words, nor screens drawn, nor packages looked through."""
    asked = {"_PREFIXKV_COMPLETE": "complete_bash", "COMP_WORDS": "prefixkv chat --budget 5", "COMP_CWORD": "3"}
    command = [PROGRAM[0], "-X", "importtime", *PROGRAM[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | asked, check=False)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout.split() == ["50%", "5%", "512MiB"]
    assert "typer.core" in loaded
    assert loaded & {*HEAVY, "pydantic", "rich.console", "importlib.metadata", "prefixkv.models.loading"} == set()


def test_fish_has_one_line_for_each_completion() -> None:
    words = {"_TYPER_COMPLETE_ARGS": "prefixkv chat --", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    asked = ENVIRONMENT | words | {"_PREFIXKV_COMPLETE": "complete_fish"}
    command = [PROGRAM[0], "-X", "importtime", *PROGRAM[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=asked, check=False)
    lines = done.stdout.splitlines()
    assert [line for line in lines if not re.fullmatch(r"--[\w-]+\t.{1,72}", line)] == []
    assert "--codec\tIn which precision entries are stored, with any method: auto, plain, ..." in lines
    assert len(lines) > 30
    assert "rich.console" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_prints_a_script_for_every_shell(shell: str) -> None:
    done = subprocess.run([*PROGRAM, "completion", shell], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_PREFIXKV_COMPLETE" in done.stdout


def test_completion_of_an_unknown_shell_says_which_are_known() -> None:
    done = subprocess.run(
        [*PROGRAM, "completion", "tcsh"], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "bash, zsh, fish" in done.stderr


def test_the_list_of_commands_has_the_first_sentence_of_each() -> None:
    """It is printed without any command's module, so it has the sentences itself."""
    root = typer.main.get_command(app)
    told = what_is_loaded([["--help"]])[0]
    assert not {name for name in told.modules if name in ("sqlite3", "pydantic_core")}
    for name, command in root.commands.items():
        with root._only_summaries():
            listed = root.commands[name]
        assert listed.help == (command.help or "").split("\n\n")[0].replace("\n", " ")
        assert listed.rich_help_panel == command.rich_help_panel
        assert name in told.stdout
