"""An option that several commands have means the same in each of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.program import Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data file beside which there are no pictures; they are in `elsewhere`."""
    (tmp_path / "elsewhere").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (28, 28), "red").save(tmp_path / "elsewhere" / f"{name}.png")
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"image": f"{name}.png", "question": "ba ce"} for name in ("a", "b")]))
    return path


@pytest.fixture
def terse_model(model_folder: Path, tmp_path: Path) -> Path:
    """The tests' model with half of its words as ends of an answer: a profile predicts whole answers many times."""
    folder = tmp_path / "terse"
    shutil.copytree(model_folder, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": list(range(100))}))
    return folder


@pytest.mark.parametrize("command", ["profile", "eval"])
def test_images_are_the_folder_of_a_data_files_pictures(
    command: str, run: Run, terse_model: Path, data: Path, tmp_path: Path
) -> None:
    more = {
        "profile": ["--samples", "2", "--out", str(tmp_path / "profile.json")],
        "eval": ["--methods", "h2o", "--budgets", "100%", "--max-new-tokens", "2", "--out", str(tmp_path / "run")],
    }[command]
    words = (command, "--model", str(terse_model), "--data", str(data), "--device", "cpu", *more)
    without = run(*words)
    assert (without.returncode, "a.png" in without.stderr) == (1, True)
    done = run(*words, "--images", str(data.parent / "elsewhere"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["profile", "eval"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--data", "scenes:2", "--images", "."], "'scenes:2' has no such"),
        (["--data", "text:README.md", "--images", "."], "'text:README.md' has no such"),
        (["--data", "README.md"], "text:README.md"),
        (["--data", "scenes:none"], "scenes:none"),
        (["--plot", "curves.jpg", "--data", "scenes:2"], "end it in .png, .svg, .pdf"),
    ],
)
def test_data_is_refused_alike(command: str, given: list[str], says: str, run: Run) -> None:
    done = run(command, "--model", "demo", *given)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--data", "followups"], "scenes"),
        (["--data", "scenes:2", "--seed", "4"], "scenes:N:SEED"),
        (["--data", "scenes:2", "--prompts", "p.txt"], "--images FOLDER"),
    ],
)
def test_profile_says_what_does_not_go_together(given: list[str], says: str, run: Run) -> None:
    done = run("profile", "--model", "demo", *given)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr


@pytest.mark.exhaustive
def test_profile_draws_the_scenes_that_data_names(run: Run, model_folder: Path, tmp_path: Path) -> None:
    out = ("--model", str(model_folder), "--device", "cpu", "--json", "--out", str(tmp_path / "profile.json"))
    named = run("profile", "--data", "scenes:2:5", *out)
    assert named.returncode == 0, named.stderr
    assert json.loads(named.stdout) == json.loads(run("profile", "--samples", "2", "--seed", "5", *out).stdout)
    assert "drawn scenes 5 to 6" in named.stdout
