"""Every command's `--json` is one object that says what it is, with the fields that its schema has and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from prefixkv.demo import profile_path
from prefixkv.schemas.config import ConfigSchema
from prefixkv.schemas.context import ContextSchema
from prefixkv.schemas.profile import ProfileSchema
from prefixkv_cli.json_outputs.table import OUTPUTS
from prefixkv_cli.program import app
from tests.cli.program import Run

ANSWERS = ["-p", "ba ce di", "--max-new-tokens", "4"]
OTHERS = {"profile": ProfileSchema, "config": ConfigSchema, "context": ContextSchema}
"""What is printed as it is in a file."""


@pytest.fixture
def checked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command with `--json`, and check what it prints."""
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))

    def check(schema: str, *words: str) -> dict[str, Any]:
        done = run(*words, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout)
        wanted: type[BaseModel] = (OUTPUTS | OTHERS)[schema]
        wanted.model_validate_json(done.stdout)
        assert printed["format"].startswith("prefixkv-")
        assert type(printed["version"]) is int
        if wanted.model_config.get("extra") == "forbid" or schema in ("profile", "config", "search-output"):
            assert set(printed) <= set(wanted.model_fields)
        return printed

    return check


def test_what_needs_no_model(checked: Any) -> None:
    checked("models-output", "models")
    assert checked("models-output", "models", "--all")["tested"]["types"]
    checked("info-output", "info", "demo")
    checked("info-output", "info", "llava")
    checked("env-output", "env")
    checked("settings-output", "settings", "show")
    checked("demo-scene-output", "demo-scene", "scene.png", "--seed", "3")
    checked(
        "search-output", "search", "--model", "demo", "--budget", "20%", "--allocation", "uniform", "--name", "fifth"
    )
    assert checked("configs-output", "configs", "list")["configs"][0]["name"] == "fifth"
    checked("config", "configs", "show", "fifth")
    profile = str(profile_path())
    checked("profile", "profile", "show", profile)
    checked("profile-diff-output", "profile", "diff", profile, profile)
    checked("profiles-output", "profile", "list")
    assert checked("log-output", "log", "list")["answers"] == []
    checked("log-output", "log", "search", "red")


def test_answers(checked: Any, model_folder: Path, picture: Path) -> None:
    asked = [str(picture), *ANSWERS, "--model", str(model_folder)]
    warnings = checked("chat-output", "chat", *asked, "--max-pixels", "9000")["warnings"]
    assert any("is scaled down" in warning for warning in warnings)
    checked("save-output", "save", *asked, "--name", "desk")
    assert checked("contexts-output", "contexts", "list")["contexts"][0]["name"] == "desk"
    checked("context", "contexts", "show", "desk")
    checked("batch-output", "batch", *asked, "--out", "answers.jsonl")
    checked("chat-output", "chat", *asked, "--log")
    assert checked("log-output", "log", "list")["answers"]
    checked("log-show-output", "log", "show")


@pytest.mark.exhaustive
def test_measurements(checked: Any, model_folder: Path, tmp_path: Path) -> None:
    model = ["--model", str(model_folder)]
    text = tmp_path / "text.txt"
    text.write_text("ba ce di fo gu " * 300)
    sizes = ["--context-tokens", "40", "--continuation-tokens", "5", "--limit", "2", "--budgets", "50%"]
    checked("eval-output", "eval", *model, "--data", f"text:{text}", "--methods", "h2o", *sizes)
    checked("bench-output", "bench", *model, "--context", "30", "--new-tokens", "4", "--budgets", "50%", "--batch", "1")
    checked("profile", "profile", *model, "--data", f"text:{text}", "--samples", "1")


def test_every_command_that_prints_json_is_in_these_tests() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    pending, found = [(("prefixkv",), typer.main.get_command(app))], []
    while pending:
        path, command = pending.pop()
        pending += [((*path, name), inner) for name, inner in getattr(command, "commands", {}).items()]
        if any("--json" in parameter.opts for parameter in command.params):
            found.append(path[1:])
    assert len(found) > 15
    assert [path for path in found if '", "'.join(path) not in source] == []
