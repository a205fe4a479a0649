"""Defaults of options: the command line wins over a variable, a variable over the file, the file over the default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from prefixkv_cli.program import app
from prefixkv_cli.settings.names import SETTINGS
from prefixkv_cli.settings.schema import SettingsSchema
from tests.cli.program import Run, environment

SEARCH = ("search", "--model", "llava", "--allocation", "uniform", "--json")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_every_setting_is_an_option_of_chat_and_a_field_of_the_file() -> None:
    chat = typer.main.get_command(app).commands["chat"]  # type: ignore[attr-defined]
    options = {name for parameter in chat.params for name in parameter.opts}
    assert {f"--{name}" for name in SETTINGS} <= options
    assert {field.replace("_", "-") for field in SettingsSchema.model_fields} == set(SETTINGS)


def test_command_line_variable_file_default_in_this_order(home: Path, run: Run) -> None:
    def budget(*words: str, **variables: str) -> str:
        done = run(*SEARCH, *words, env={**environment(), **variables})
        assert done.returncode == 0, done.stderr
        found: str = json.loads(done.stdout)["budget"]["requested"]
        return found

    assert run("settings", "set", "budget", "30%").returncode == 0
    assert budget() == "30%"
    assert budget(PREFIXKV_BUDGET="40%") == "40%"
    assert budget("--budget", "50%", PREFIXKV_BUDGET="40%") == "50%"
    shown = json.loads(run("settings", "show", "--json", env={**environment(), "PREFIXKV_METHOD": "h2o"}).stdout)
    assert shown["path"] == str(home / "settings.toml")
    rows = {row["name"]: (row["value"], row["source"]) for row in shown["settings"]}
    assert rows["budget"] == ("30%", "file")
    assert rows["method"] == ("h2o", "variable PREFIXKV_METHOD")
    assert rows["max-new-tokens"] == (512, "default")
    assert list(rows) == list(SETTINGS)
    # A search has no default budget: once it is out of the file, the option is missing again.
    assert run("settings", "unset", "budget").returncode == 0
    assert run(*SEARCH).returncode == 2


def test_what_the_user_wrote_in_the_file_stays(home: Path, run: Run) -> None:
    home.mkdir()
    (home / "settings.toml").write_text('# mine\nmodel = "llava" # the large one\n\ntop-p = 0.9\n')
    for words in (("temperature", "0.5"), ("top-p", "1"), ("plain", "true"), ("max-new-tokens", "64")):
        assert run("settings", "set", *words).returncode == 0
    assert (home / "settings.toml").read_text() == (
        '# mine\nmodel = "llava" # the large one\n\ntop-p = 1\ntemperature = 0.5\nplain = true\nmax-new-tokens = 64\n'
    )
    assert run("settings", "path").stdout == f"{home / 'settings.toml'}\n"
    listed = run("settings", "show").stdout.splitlines()
    assert "temperature\t0.5\tfile" in listed
    assert "plain\ttrue\tfile" in listed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("modle", "llava"), "setting 'modle' is not known: choose one of model, budget"),
        (("budget", "0%"), "budget: budget '0%' is outside (0%, 100%]"),
        (("method", "magic"), "method 'magic' is not known: choose one of"),
        (("max-new-tokens", "many"), "max-new-tokens is 'many': it should be a valid integer"),
        (("max-new-tokens", "0"), "max-new-tokens 0 is too small"),
        (("load-in-8bit", "maybe"), "load-in-8bit is 'maybe': it should be a valid boolean"),
        (("device", "gpu"), "device 'gpu' is not known"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line_and_not_written(
    home: Path, run: Run, words: tuple[str, str], says: str
) -> None:
    done = run("settings", "set", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr
    assert not (home / "settings.toml").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'modle = "llava"', "setting 'modle' is not known"),
        (b"temperature = 200.0", "temperature 200.0 is outside 0 .. 100"),
        (b"budget = 20", "budget is 20: it should be a valid string"),
        (b"budget", "is no valid TOML"),
        (b"\xff", "is no UTF-8"),
        (b'model = "x"\nmodel = "y"', "is no valid TOML"),
        (b"a = " + b"[" * 5000, "is no valid TOML"),
        (b"x" * (2**20 + 1), "is too large to be read"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_where_a_setting_is_needed(
    home: Path, run: Run, content: bytes, says: str
) -> None:
    home.mkdir()
    (home / "settings.toml").write_bytes(content)
    for words in (SEARCH, ("settings", "show")):
        done = run(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert str(home / "settings.toml") in done.stderr
        assert says in done.stderr
    # Help, and the way to the file, need none of its values.
    assert run("chat", "--help").returncode == 0
    assert run("settings", "path").returncode == 0


def test_a_variable_that_nothing_reads_and_one_that_wins_are_said(home: Path, run: Run) -> None:
    variables = {**environment(), "PREFIXKV_MODLE": "llava", "PREFIXKV_BUDGET": "5%"}
    assert "PREFIXKV_MODLE is set, and no option reads it" in run("settings", "show", env=variables).stderr
    assert "PREFIXKV_BUDGET is set, too, and wins: 5%" in run("settings", "set", "budget", "7%", env=variables).stderr


def test_what_nobody_may_switch_on_for_ever_has_no_variable(run: Run) -> None:
    variables = {**environment(), "PREFIXKV_TRUST_REMOTE_CODE": "1"}
    assert "PREFIXKV_TRUST_REMOTE_CODE is set, and no option reads it" in run("settings", "show", env=variables).stderr


def test_a_model_folder_is_meant_in_every_folder(home: Path, run: Run, tmp_path: Path) -> None:
    for name in ("mine", "llava"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        assert run("settings", "set", "model", name, cwd=tmp_path).returncode == 0
        value = str(tmp_path / "mine") if name == "mine" else "llava"
        assert f"model\t{value}\tfile" in run("settings", "show").stdout
