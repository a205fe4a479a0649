"""What can be known before a model is loaded; and that weights may be laid out in other ways."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefixkv.models.families import FAMILIES
from prefixkv.models.refused_types import REFUSED_TYPES
from prefixkv.models.type_results import type_results
from prefixkv_cli.commands.models import models
from tests.cli.program import Run


def test_models_lists_every_family_and_refusal(run: Run) -> None:
    done = run("models", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(done.stdout)
    assert [row["family"] for row in listed["families"]] == [family.name for family in FAMILIES]
    assert listed["refused"] == REFUSED_TYPES
    shown = run("models").stdout
    assert all(row["alias"] in shown and row["example"] in shown for row in listed["families"])


def test_all_types_are_listed_with_what_they_did(run: Run) -> None:
    version, types = type_results()
    done = run("models", "--all", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(done.stdout)["tested"]
    assert listed["transformers"] == version
    assert {name: found["outcome"] for name, found in listed["types"].items()} == {
        name: found.outcome for name, found in types.items()
    }
    lines = run("models", "--all").stdout.splitlines()
    assert version in lines[0]
    assert sum(line.split()[:1] == ["qwen3_5"] for line in lines) == 1
    runs = sum(found.outcome == "runs" for found in types.values())
    assert lines[-1].startswith(f"{runs} of ")


@pytest.mark.parametrize("columns", [60, 80])
def test_ids_are_whole_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    """They are there to be copied; a narrower terminal breaks them, and cuts nothing."""
    console = Console(width=columns, force_terminal=True, color_system=None)
    monkeypatch.setattr("prefixkv_cli.output.stdout_console", lambda: console)
    monkeypatch.setattr("prefixkv_cli.commands.models.weights_are_here", lambda name: False)
    models()
    shown = capsys.readouterr().out
    if columns >= 80:
        assert all(family.example in shown and family.alias in shown for family in FAMILIES)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= columns


def test_aliases_are_distinct() -> None:
    aliases = [family.alias for family in FAMILIES]
    assert len({*aliases, "demo", "auto"}) == len(aliases) + 2


def test_info_of_the_demo_model_is_what_its_files_say(run: Run) -> None:
    from prefixkv.demo import weights_path

    done = run("info", "demo", "--json", "--picture", "500x200")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    config = json.loads((weights_path() / "config.json").read_text(encoding="utf-8"))["text_config"]
    heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    assert facts["kv"]["layers"] == layers
    assert facts["token_bytes"] == 2 * layers * heads * config["head_dim"] * 4
    assert facts["picture_tokens"] == {"500x200": 576}
    assert facts["weight_bytes"] == sum(file.stat().st_size for file in weights_path().glob("*.safetensors"))


def test_info_reads_no_weights(run: Run, model_folder: Path, tmp_path: Path) -> None:
    """A folder without weights is enough; their size is then not known, and that is said."""
    folder = tmp_path / "light"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    done = run("info", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["weight_bytes"] is None
    assert "size" in done.stderr
    assert facts["picture_tokens"]["640x480"] == 4
    assert facts["family"] == "LLaVA-1.5"


def test_info_of_a_well_known_model_needs_no_network(run: Run) -> None:
    done = run("info", "llava")
    assert done.returncode == 0
    assert "524,288 (512 KiB)" in done.stdout
    assert "built-in figures" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["./nothing"], 1, "is not there"),
        (["demo", "--picture", "640"], 2, "640x480"),
        (["demo", "--picture", "0x9"], 2, "640x480"),
        ([], 2, "MODEL"),
    ],
)
def test_bad_input_gets_one_line(run: Run, arguments: list[str], exit_code: int, says: str) -> None:
    done = run("info", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1)
    assert says in done.stderr


def test_refused_family_says_why(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "num_hidden_layers": 2}')
    done = run("info", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "mamba models cannot be compressed: none of its layers keeps" in done.stderr


def test_device_map_gives_the_same_answer(model_folder: Path) -> None:
    from prefixkv.inputs.prompts import Prompt, Turn
    from prefixkv.models.loading import Placement, load_model

    placed = load_model(str(model_folder), placement=Placement(device_map="auto"))
    plain = load_model(str(model_folder), "cpu")
    prompt = Prompt(plain.processor, [Turn("ba ce di")])
    tokens = [
        loaded.model.generate(**loaded.on_device(prompt.inputs), max_new_tokens=8, do_sample=False).tolist()
        for loaded in (placed, plain)
    ]
    assert tokens[0] == tokens[1]


def run_json(run: Run, *arguments: str) -> Any:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_chat_and_save_take_a_device_map(run: Run, model_folder: Path, picture: Path, tmp_path: Path) -> None:
    asked = ["-p", "ba ce di", "--model", str(model_folder), "--max-new-tokens", "5", "--json"]
    placed, plain = (
        run_json(run, "chat", str(picture), *asked, *where)["answer"]
        for where in (["--device-map", "auto"], ["--device", "cpu"])
    )
    assert placed == plain
    out = tmp_path / "kept.safetensors"
    assert run_json(run, "save", str(picture), *asked, "--device-map", "auto", "--out", str(out))["answer"] == plain


def test_eval_takes_a_device_map(run: Run, model_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ba ce di fo gu " * 60)
    asked = [
        "eval",
        "--model",
        str(model_folder),
        "--data",
        f"text:{text}",
        "--context-tokens",
        "40",
        "--methods",
        "h2o",
    ]
    asked += ["--continuation-tokens", "5", "--limit", "2", "--budgets", "50%", "--json", "--processes", "1"]
    cells = [
        run_json(run, *asked, *where, "--out", str(tmp_path / where[1]))["cells"]
        for where in (["--device-map", "auto"], ["--device", "cpu"])
    ]
    assert cells[0] == cells[1]


@pytest.mark.parametrize("command", [["chat"], ["save", "--name", "a"], ["eval", "--data", "scenes:1"]])
def test_map_and_device_exclude_each_other(run: Run, command: list[str], picture: Path) -> None:
    pictures = [] if command[0] == "eval" else [str(picture)]
    done = run(*command, *pictures, "--device-map", "auto", "--device", "cpu")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "either" in done.stderr
