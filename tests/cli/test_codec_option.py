"""`--codec` on every command that makes a cache: what it stores, where it is written down, and what it excludes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.codec import CODECS
from tests.cli.program import Run

GEOMETRY = KVGeometry(layers=4, kv_heads=2, head_dim=16, dtype="float32")
"""Of the tests' model."""


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("codec") / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


@pytest.mark.parametrize("codec", ["plain", "int4"])
def test_chat_says_what_was_asked_for_and_what_is_stored(
    run: Run, model_folder: Path, picture: Path, codec: str
) -> None:
    asked = ("--codec", codec, "--method", "full", "--budget", "100%", "--max-new-tokens", "4", "--json")
    done = run("chat", str(picture), "--model", str(model_folder), "-p", "ba be bi", *asked)
    record = json.loads(done.stdout)
    assert (done.returncode, record["codec"], record["kv"]["codec"]) == (0, codec, codec)
    share = CODECS[codec].entry_size(GEOMETRY).counted / GEOMETRY.counted_bytes
    assert record["kv"]["bytes_fraction"] == pytest.approx(share)


@pytest.mark.parametrize("command", ["chat", "save", "batch", "search", "bench"])
def test_an_unknown_codec_is_refused_before_anything_is_loaded(run: Run, tmp_path: Path, command: str) -> None:
    needed = {
        "chat": ("-p", "hi"),
        "save": ("a.png", "--name", "a"),
        "batch": ("a.jsonl", "--out", "b.jsonl"),
        "search": ("--budget", "20%"),
        "bench": (),
    }
    done = run(command, *needed[command], "--codec", "int3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "codec 'int3' is not known" in done.stderr
    assert "choose one of auto, plain, int8, int4, int2" in done.stderr


def test_a_budget_below_what_full_takes_is_refused_in_one_line(run: Run, model_folder: Path, picture: Path) -> None:
    asked = ("--codec", "int4", "--method", "full", "--budget", "3%")
    done = run("chat", str(picture), "--model", str(model_folder), "-p", "ba", *asked)
    assert done.returncode == 3
    assert "method 'full' keeps everything, which takes 31.25% of the cache in codec 'int4'" in done.stderr
    assert "give at least 31.25%" in done.stderr


def test_a_configuration_brings_its_codec(
    run: Run, model_folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path))
    searched = ("--budget", "30%", "--allocation", "uniform", "--method", "h2o", "--codec", "int8", "--name", "eight")
    assert run("search", "--model", str(model_folder), *searched, "--json").returncode == 0
    assert json.loads(run("configs", "list", "--json").stdout)["configs"][0]["codec"] == "int8"
    assert "codec int8" in run("configs", "show", "eight").stdout + run("configs", "show", "eight").stderr
    asked = ("-p", "ba be bi", "--config", "eight", "--max-new-tokens", "4")
    record = json.loads(run("chat", str(picture), "--model", str(model_folder), *asked, "--json").stdout)
    assert (record["method"], record["codec"], record["kv"]["codec"]) == ("h2o", "int8", "int8")
    done = run("chat", str(picture), "--model", str(model_folder), *asked, "--codec", "int4")
    assert "a configuration brings its own budget, method and codec" in done.stderr


def test_batch_and_its_records_know_the_codec(run: Run, model_folder: Path, picture: Path, tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"image": str(picture), "prompt": "ba be bi"}) + "\n")
    asked = ("batch", str(questions), "--model", str(model_folder), "--max-new-tokens", "4", "--method", "h2o")
    for answered in (False, True):
        done = run(*asked, "--out", str(tmp_path / "a.jsonl"), "--codec", "int2")
        assert done.returncode == 0
        assert ("1 of 1 lines are answered already" in done.stderr) == answered
    done = run(*asked, "--out", str(tmp_path / "a.jsonl"), "--codec", "plain")
    assert done.returncode == 1
    assert "was written with another model, budget, method, codec or answer length" in done.stderr


def test_eval_measures_methods_in_codecs_at_one_budget(run: Run, model_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ba be bi bo bu " * 200)
    done = run(
        *("eval", "--model", str(model_folder), "--data", f"text:{text}", "--limit", "1", "--budgets", "20%"),
        *("--methods", "full,h2o", "--codecs", "plain,int4", "--context-tokens", "64", "--continuation-tokens", "8"),
        *("--processes", "1", "--out", str(tmp_path / "out"), "--json"),
    )
    assert done.returncode == 0, done.stderr
    cells = {(cell["method"], cell["codec"]): cell for cell in json.loads(done.stdout)["cells"]}
    assert cells["full", "plain"]["shared_with_full"]
    share = CODECS["int4"].entry_size(GEOMETRY).counted / GEOMETRY.counted_bytes
    assert cells["full", "int4"]["bytes_fraction"] == pytest.approx(share)
    assert cells["full", "int4"]["marks"] == []
    assert cells["full", "int4"]["metrics"]["kl_nats"]["value"] > 0
    assert cells["h2o", "int4"]["bytes_fraction"] == pytest.approx(0.2, rel=0.1)
    assert cells["h2o", "int4"]["bits"] == 4
    assert cells["h2o", "int4"]["kept_tokens_fraction"] == pytest.approx(0.2 / share, rel=0.1)
    assert cells["h2o", "plain"]["bytes_fraction"] == pytest.approx(0.2, rel=0.1)


def test_bench_says_the_codec(run: Run) -> None:
    asked = ("--shape", "small", "--context-tokens", "32", "--new-tokens", "4", "--budgets", "20%", "--repeats", "1")
    done = run("bench", *asked, "--method", "h2o", "--codec", "int4", "--device", "cpu", "--json")
    cells = json.loads(done.stdout)["cells"]
    assert [cell["codec"] for cell in cells] == [None, "int4"]
