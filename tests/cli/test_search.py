"""The commands around configurations, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.profiles.config import PrefixConfig
from tests.cli.loaded_modules import what_is_loaded
from tests.cli.program import Run
from tests.profiles.test_config import profile_of

LARGE = ModelIdentity("some/large-model", None, KVGeometry(80, 8, 128, "bfloat16"), "0123456789abcdef")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_uniform_search_needs_no_network_and_no_weights(run: Run) -> None:
    done = run(
        "search", "--model", "llava", "--budget", "4GB", "--context", "4096", "--batch", "32", "--allocation", "uniform"
    )
    assert done.returncode == 0
    assert "of 64 GiB (5.7%)" in done.stderr
    runs = [line.split() for line in done.stderr.splitlines() if line.endswith("each")]
    assert [layer for first, _, last, *_ in runs for layer in range(int(first), int(last) + 1)] == list(range(32))


def test_without_profile_or_weights_one_line_says_what_to_do(run: Run) -> None:
    done = run("search", "--model", "llava", "--budget", "4GB")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "prefixkv profile --model llava" in done.stderr


def test_search_from_a_stored_profile_is_exact_and_loads_nothing_heavy(tmp_path: Path) -> None:
    profile_of(LARGE).save(tmp_path / "large.json")
    arguments = ["search", "--profile", str(tmp_path / "large.json"), "--budget", "20%", "--context", "4096", "--json"]
    (done,) = what_is_loaded([arguments])
    assert sum(json.loads(done.stdout)["kept_tokens"]) == 80 * 4096 // 5
    assert done.modules & {"torch", "transformers"} == set()


def test_configurations_are_saved_listed_shown_and_removed(run: Run, tmp_path: Path, home: Path) -> None:
    profile_of(LARGE).save(tmp_path / "large.json")
    done = run("search", "--profile", str(tmp_path / "large.json"), "--budget", "20%", "--name", "fifth")
    assert done.returncode == 0
    assert (home / "configs" / "fifth.json").is_file()
    (row,) = json.loads(run("configs", "list", "--json").stdout)["configs"]
    assert (row["name"], row["model"], row["budget"]) == ("fifth", "some/large-model", "20%")
    assert "some/large-model" in run("configs", "show", "fifth").stderr
    assert run("configs", "path", "fifth").stdout.strip() == str(home / "configs" / "fifth.json")
    assert run("configs", "remove", "fifth").returncode == 0
    assert run("configs", "show", "fifth").returncode == 1


def test_release_round_trip(run: Run, tmp_path: Path) -> None:
    forgotten = [index / 33 for index in range(32)]
    (tmp_path / "prefixkv_7b_0.8.json").write_text(json.dumps(forgotten), encoding="utf-8")
    assert (
        run("configs", "import", str(tmp_path / "prefixkv_7b_0.8.json"), "--model", "llava", "--name", "r").returncode
        == 0
    )
    assert run("configs", "export", "r", str(tmp_path / "again.json"), "--release").returncode == 0
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == forgotten


def test_nothing_is_written_outside_the_home(run: Run, tmp_path: Path) -> None:
    done = run("search", "--model", "llava", "--budget", "20%", "--allocation", "uniform", "--name", "../../x")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == []


def test_everything_fits_and_long_contexts_are_said(run: Run) -> None:
    done = run("search", "--model", "llava", "--budget", "40GB", "--context", "8192", "--allocation", "uniform")
    assert "fits the budget: everything is kept" in done.stderr
    assert "trained for 4096 tokens" in done.stderr


def test_what_fits_a_device(run: Run) -> None:
    options = ("--model", "llava", "--allocation", "uniform", "--context", "2944", "--device-memory", "80GB")
    assert "rows of 2944 tokens that fit" in run("search", "--budget", "20%", "--fit", *options).stderr
    done = run("search", "--target-batch", "128", "--json", *options)
    content = json.loads(done.stdout)
    assert content["budget"]["batch"] == 128
    assert 14e9 + content["budget"]["bytes"] < 80e9


def test_profile_search_chat_round(run: Run, tmp_path: Path) -> None:
    """The whole round on the demo model; the search takes its bundled profile."""
    done = run("search", "--model", "demo", "--budget", "20%", "--method", "prefixkv", "--name", "fifth")
    assert done.returncode == 0
    assert "saved" in done.stderr
    assert run("demo-scene", "scene.png", "--seed", "12", cwd=tmp_path).returncode == 0
    asked = ("chat", "scene.png", "--model", "demo", "-p", "How many objects are there?", "--config", "fifth", "--json")
    content = json.loads(run(*asked, cwd=tmp_path).stdout)
    kept = [layer["kept_tokens"] for layer in content["kv"]["layers"]]
    shares = PrefixConfig.load(tmp_path / "home" / "configs" / "fifth.json").keep_fractions
    seen = content["kv"]["layers"][0]["seen_tokens"]
    assert max(abs(count / seen - share) for count, share in zip(kept, shares, strict=True)) < 0.02
    refused = run("chat", "scene.png", "--config", "fifth", "--budget", "30%", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_layers_that_keep_as_much_are_one_row(run: Run) -> None:
    done = run("search", "--model", "llava", "--budget", "12.5%", "--allocation", "uniform")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stderr.splitlines() if " / 1024" in line]
    assert rows == [["0", "to", "31", "12.5%", "128", "/", "1024", "each", "2", "MiB", "each"]]
    assert "not saved: give --name" in done.stderr
