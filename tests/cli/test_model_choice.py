"""What `--model auto` is: the demo for drawn scenes, else a real model, which is downloaded only with leave."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from prefixkv.demo.scenes import draw_scene
from prefixkv.models import choice
from prefixkv.models.choice import REAL_MODELS, SMALL, RealModel, fitting_models, real_model
from prefixkv.models.download import is_here
from tests.cli.program import Run
from tests.loopback_hub import LoopbackHub

MODEL = "someone/tiny"
GIB = 2**30


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    draw_scene(3).image.save(path)
    return path


@pytest.fixture
def hub(model_folder: Path, use_hub: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub that has a tiny model, which is the only one that fits."""
    hub = LoopbackHub(MODEL, model_folder)
    use_hub(hub.url)
    monkeypatch.setattr(choice, "REAL_MODELS", (RealModel(MODEL, 1000),))
    yield hub
    hub.close()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a run that may use the network."""
    from tests.cli.program import environment

    return environment() | {"HF_HUB_OFFLINE": "0"}


def test_what_fits_is_by_memory() -> None:
    assert fitting_models(80 * GIB, on_cpu=False) == REAL_MODELS
    assert fitting_models(16 * GIB, on_cpu=False) == REAL_MODELS[1:]
    assert fitting_models(8 * GIB, on_cpu=True) == (SMALL,)
    assert fitting_models(64 * GIB, on_cpu=True) == REAL_MODELS[::-1]
    assert fitting_models(GIB, on_cpu=True) == (SMALL,)


def test_what_is_here_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(choice, "memory_bytes", lambda device: 80 * GIB)
    llava, qwen, small = REAL_MODELS
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert real_model(cuda, lambda name: False) == (llava, False)
    assert real_model(cuda, lambda name: name != llava.id) == (qwen, True)
    assert real_model(cpu, lambda name: False) == (small, False)
    assert real_model(cpu, lambda name: name == llava.id) == (llava, True)


def test_a_drawn_scene_is_the_demos(run: Run, scene: Path) -> None:
    done = run("chat", str(scene), "-p", "How many objects are there?", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["model"] == "demo"
    assert "warnings" not in told


@pytest.mark.parametrize("command", [["chat"], ["save", "--out", "kept.safetensors"], ["batch", "--out", "a.jsonl"]])
def test_without_a_network_nothing_is_made_up(run: Run, photo: Path, command: list[str]) -> None:
    done = run(*command, str(photo), "-p", "What is this?", cwd=photo.parent)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert (
        "photo.jpg is no drawn scene or document, and the bundled demo model knows nothing else; model '" in done.stderr
    )
    assert f"run `hf download {SMALL.id}` where there is a network" in done.stderr
    assert sorted(path.name for path in photo.parent.glob("*.safetensors")) == []


def test_in_a_pipe_nothing_is_downloaded(run: Run, hub: LoopbackHub, photo: Path, online: dict[str, str]) -> None:
    done = run("chat", str(photo), "-p", "ba ce", env=online)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"is a download of 0.0 GB: run `hf download {MODEL}` once, or give --model {MODEL}" in done.stderr
    assert not is_here(MODEL)


@pytest.mark.parametrize("says", ["y", "n"])
def test_in_a_terminal_it_is_asked_for_once(
    run: Run,
    hub: LoopbackHub,
    photo: Path,
    online: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    says: str,
) -> None:
    monkeypatch.setattr("prefixkv_cli.output.is_terminal", lambda stream: isinstance(stream, io.TextIOBase))
    ask = ["chat", str(photo), "-p", "ba ce", "--plain", "--max-new-tokens", "4"]
    done = run(*ask, input=f"{says}\n", env=online)
    assert "fits this machine: 0.0 GB, downloaded once" in done.stderr
    assert "Download it? [Y/n]" in done.stderr
    assert is_here(MODEL) == (says == "y")
    if says == "n":
        assert (done.returncode, done.stdout) == (1, "")
        assert "nothing was downloaded: give another --model" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    hub.close()
    again = run(*ask, env=online)
    assert "Download" not in again.stderr
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_samples_that_are_not_drawn_need_a_real_model(run: Run, photo: Path) -> None:
    text = photo.with_name("text.txt")
    text.write_text("ba ce di")
    measured = run("profile", "--images", str(photo.parent), "--out", str(photo.with_name("p.json")))
    assert (measured.returncode, measured.stderr.count("\n")) == (1, 1)
    assert "photo.jpg is no drawn scene" in measured.stderr
    figures = run("eval", "--data", f"text:{text}")
    assert (figures.returncode, figures.stderr.count("\n")) == (1, 1)
    assert f"there are no drawn scenes or documents in text:{text}" in figures.stderr


@pytest.mark.exhaustive
def test_the_demo_model_warns_of_other_pictures_in_every_command(run: Run, photo: Path) -> None:
    asked = [str(photo), "-p", "What is this?", "--model", "demo", "--max-new-tokens", "3", "--json"]
    out = str(photo.with_name("kept.safetensors"))
    for command in (["chat"], ["save", "--out", out], ["batch", "--out", str(photo.with_name("a.jsonl"))]):
        done = run(*command, *asked)
        assert done.returncode == 0, done.stderr
        assert any("photo.jpg is no drawn scene" in warning for warning in json.loads(done.stdout)["warnings"])
    assert "photo.jpg is no drawn scene" in run("chat", str(photo), "-p", "What?", "--model", "demo").stderr
