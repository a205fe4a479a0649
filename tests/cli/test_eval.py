"""`prefixkv eval` as a user runs it: real models, real files, killed processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefixkv.demo.questions import question_set
from prefixkv.demo.scenes import draw_scene
from prefixkv.models.geometry import KVGeometry
from prefixkv_cli.self_check import conclusions
from tests.cli.program import ENVIRONMENT, PROGRAM, Run, launched, run_here
from tools.demo.evaluate import answer_questions

QUICK = ("eval", "--model", "demo", "--processes", "1", "--budgets", "100%,20%", "--methods", "full,local,h2o")
ONE_METHOD = (*QUICK[:-1], "h2o", "--metrics", "accuracy")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _records(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in sorted(folder.glob("records-*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def _checked(rouge: float, divergence: float) -> str:
    cell = {"method": "guided", "budget": "10%", "bits": 4.0, "kept_tokens_fraction": 0.38}
    metrics = {"rouge_l": {"value": rouge}, "kl_nats": {"value": divergence}}
    geometry = KVGeometry(2, 1, 16, "float32", window_layers=(0, 2), window_tokens=8)
    full = {"method": "full", "budget": "100%"}
    line, layers = conclusions({"cells": [full, cell | {"metrics": metrics}]}, geometry)
    assert layers == "2 of 4 layers are compressed, left alone are 2 with a window (0, 2)"
    return line


def test_a_self_check_says_whether_answers_are_the_full_caches() -> None:
    assert _checked(1.0, 0.001).startswith("guided at 10% answers as the full cache does: ROUGE-L 1.00 of 1")
    assert "answers much as the full cache does" in _checked(1.0, 0.2)
    assert "answers much as the full cache does" in _checked(0.95, 0.01)
    assert "give a larger budget" in _checked(0.5, 0.01)
    assert _checked(0.5, 0.01).endswith("in 4 bits, 38% of the tokens kept")


@pytest.mark.exhaustive
def test_a_self_check_of_ones_own_pictures(run: Run, tmp_path: Path) -> None:
    draw_scene(8).image.save(tmp_path / "a.png")
    command = (
        "eval",
        "--model",
        "demo",
        "--processes",
        "1",
        "--data",
        f"pictures:{tmp_path / 'a.png'}",
        "--self-check",
    )
    done = run(*command, "--limit", "2", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert [(cell["method"], cell["budget"]) for cell in figures["cells"]] == [("full", "100%"), ("guided", "20%")]
    assert "guided at 20% answers " in done.stderr
    assert "8 of 8 layers are compressed, left alone are none" in done.stderr
    refused = run(*command, "--metrics", "ppl")
    assert refused.returncode == 2
    assert "leave --metrics out" in refused.stderr


@pytest.mark.exhaustive
def test_scenes_are_judged_and_weighed(run: Run, tmp_path: Path) -> None:
    out, plot, report = tmp_path / "out", tmp_path / "plot.svg", tmp_path / "page.html"
    pictures = ("--plot", str(plot), "--report", str(report))
    done = run(*QUICK, "--data", "scenes:13:9", "--json", "--out", str(out), *pictures)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == figures
    cells = {(cell["method"], cell["budget"]): cell for cell in figures["cells"]}
    assert list(cells) == [
        (m, b) for b in ("100%", "20%") for m in ("full", "local", "h2o") if (m, b) != ("full", "20%")
    ]
    full = cells["full", "100%"]
    assert full["bytes_fraction"] == 1
    assert full["metrics"]["rouge_l"]["value"] == 1
    assert full["metrics"]["kl_nats"]["value"] == 0
    assert sum(kind["samples"] for kind in full["kinds"].values()) == 13
    for method in ("local", "h2o"):
        assert cells[method, "100%"]["shared_with_full"]
        assert cells[method, "100%"]["metrics"] == full["metrics"]
        cell = cells[method, "20%"]
        assert cell["marks"] == []
        assert 0.195 < cell["bytes_fraction"] <= 0.2
        assert cell["metrics"]["perplexity"]["value"] > full["metrics"]["perplexity"]["value"]
        assert cell["metrics"]["kl_nats"]["value"] > 0
        metric = cell["metrics"]["accuracy"]
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert "the full cache, measured once, stands for local, h2o too" in done.stderr
    assert "<svg" in plot.read_text(encoding="utf-8")
    assert "13 samples of scenes" in report.read_text(encoding="utf-8")


@pytest.mark.exhaustive
def test_full_answers_are_those_of_stock_generate(run: Run, tmp_path: Path) -> None:
    import prefixkv

    loaded = prefixkv.load_model("demo", device="cpu")
    pairs = question_set(13, 31)
    expected = answer_questions(loaded.model, loaded.processor, pairs)
    done = run(*QUICK[:-2], "--methods", "full", "--data", "scenes:13:31", "--json", "--out", str(tmp_path / "out"))
    records = sorted(_records(tmp_path / "out"), key=lambda record: record["sample"])
    assert [record["answer"] for record in records] == expected
    right = [answer == question.answer for answer, (_, question) in zip(expected, pairs, strict=True)]
    assert json.loads(done.stdout)["cells"][0]["metrics"]["accuracy"]["value"] == sum(right) / 13


def test_table_is_on_stdout_and_fits_what_was_asked(run: Run) -> None:
    done = run(*QUICK, "--data", "scenes:2", "--metrics", "accuracy", "--by-kind", "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "exact" in done.stdout
    assert "perplexity" not in done.stdout
    assert "count_shape" in done.stdout
    assert "the full cache, measured once, stands for local, h2o too" in done.stdout


@pytest.mark.exhaustive
def test_killed_run_goes_on_where_it_was(run: Run, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = (*ONE_METHOD, "--data", "scenes:8:3", "--json", "--out")
    expected = run(*arguments, str(whole)).stdout
    environment = ENVIRONMENT | {"PREFIXKV_HOME": os.environ["PREFIXKV_HOME"]}
    process = subprocess.Popen([*PROGRAM, *arguments, str(cut)], env=environment, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (cut.is_dir() and len(_whole_lines(cut)) >= 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = len({json.loads(line)["sample"] for line in _whole_lines(cut)})
    assert 3 <= before < 8
    done = run(*arguments, str(cut))
    assert f"{before} of 8 samples are measured already" in done.stderr
    assert done.stdout == expected
    assert len(_records(cut)) == len(_records(whole)) == 16
    again = run(*arguments, str(cut))
    assert "8 of 8 samples are measured already" in again.stderr
    assert again.stdout == expected


def _whole_lines(folder: Path) -> list[bytes]:
    content = b"".join(file.read_bytes() for file in folder.glob("records-*.jsonl"))
    return content.splitlines()[: content.count(b"\n")]


def test_more_methods_and_samples_are_added_and_other_settings_refused(run: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    first = ("eval", "--model", "demo", "--processes", "1", "--budgets", "20%", "--out", out, "--json")
    first = (*first, "--max-new-tokens", "4")
    assert run(*first, "--data", "scenes:2", "--methods", "h2o").returncode == 0
    lines = len(_records(tmp_path / "out"))
    done = run(*first, "--data", "scenes:3", "--methods", "h2o,local")
    assert len(_records(tmp_path / "out")) == lines + 2 + 3
    assert json.loads(done.stdout)["samples"] == 3
    refused = run(*first, "--data", "scenes:2", "--methods", "h2o", "--max-new-tokens", "50")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "other settings (max_new_tokens)" in refused.stderr


@pytest.mark.exhaustive
def test_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*PROGRAM, *QUICK, "--data", "scenes:30", "--out", str(out)]
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (out.is_dir() and len(_whole_lines(out)) >= 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 130
    assert stdout == ""
    assert "the same command goes on from here" in stderr
    assert len(_whole_lines(out)) >= 3


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(["--cpu", "--num_processes", "2"], id="cpu"),
        pytest.param(["--multi_gpu", "--num_processes", "2"], id="torchrun"),
    ],
)
def test_launched_processes_share_the_samples_and_print_once(run: Run, tmp_path: Path, launcher: list[str]) -> None:
    """With `--cpu` and no MPI host file accelerate itself starts one process, with `--multi_gpu` two."""
    arguments = ["eval", "--model", "demo", "--device", "cpu", "--data", "scenes:16:2", "--metrics", "accuracy"]
    arguments += ["--budgets", "100%,20%", "--methods", "h2o", "--json"]
    alone = run(*arguments, "--processes", "1", "--out", str(tmp_path / "alone"))
    out = tmp_path / "together"
    together = subprocess.run(
        [*launched(*launcher), *arguments, "--out", str(out)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout == alone.stdout
    samples = [{record["sample"] for record in _records_of(file)} for file in sorted(out.glob("records-*.jsonl"))]
    assert "--cpu" in launcher or len(samples) == 2
    assert set.union(*samples) == set(range(16))
    assert sum(map(len, samples)) == 16


@pytest.mark.exhaustive
def test_side_by_side_two_processes_write_what_one_writes(run: Run, tmp_path: Path) -> None:
    words = [
        "eval",
        "--model",
        "demo",
        "--device",
        "cpu",
        "--data",
        "scenes:17:2",
        "--budgets",
        "20%",
        "--side-by-side",
    ]
    words += ["--methods", "h2o,guided", "--max-new-tokens", "6", "--json"]
    found = []
    for count in ("1", "2", "3"):
        out = tmp_path / count
        done = run(*words, "--processes", count, "--out", str(out))
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("s to start and") == int(count)
        lines = [line for file in out.glob("records-*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()]
        found.append((done.stdout, sorted(lines)))
    assert found[0] == found[1] == found[2]
    assert json.loads(found[0][0])["settings"]["side_by_side"] is True
    groups = [set(range(8)), set(range(8, 16)), {16}]
    for file in (tmp_path / "2").glob("records-*.jsonl"):
        own = {record["sample"] for record in _records_of(file)}
        assert own == set().union(*(group for group in groups if group & own))


@pytest.mark.exhaustive
def test_what_a_killed_process_had_taken_is_measured_by_the_other(tmp_path: Path) -> None:
    words = ["eval", "--model", "demo", "--device", "cpu", "--data", "scenes:16:2", "--methods", "h2o"]
    words += ["--budgets", "20%", "--metrics", "accuracy", "--max-new-tokens", "6", "--one-by-one", "--json"]
    alone = run_here(*words, "--processes", "1", "--out", str(tmp_path / "alone"))
    out, killed = tmp_path / "together", list[int]()

    def kill() -> None:
        while not (out / "records-1.jsonl").exists():
            time.sleep(0.01)
        # Beside it there is the process that Python's own resources are tracked by.
        (worker,) = (each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline()))
        worker.kill()
        killed.append(worker.pid)

    threading.Thread(target=kill, daemon=True).start()
    together = run_here(*words, "--processes", "2", "--out", str(out))
    assert (together.returncode, len(killed)) == (0, 1), together.stderr
    assert together.stderr.count("a process has ended with code -9") == 1
    assert together.stdout == alone.stdout
    assert len(_records(out)) == 32
    assert not (out / "taken").exists()


def _records_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.exhaustive
def test_second_questions(run: Run) -> None:
    done = run(*QUICK, "--data", "followups:12:2", "--metrics", "accuracy", "--json")
    assert done.returncode == 0, done.stderr
    full, _, _, local, h2o = json.loads(done.stdout)["cells"]
    assert len(full["kinds"]) == 12
    assert full["metrics"]["accuracy"]["value"] > 0.8
    # The newest entries alone know nothing of the picture any more when the second question comes.
    assert local["metrics"]["accuracy"]["value"] < full["metrics"]["accuracy"]["value"] - 0.3
    for cell in (local, h2o):
        assert 0.195 < cell["bytes_fraction"] <= 0.2


def test_text_on_a_model_without_template_or_images(run: Run, tmp_path: Path, text_model_folder: Path) -> None:
    words = " ".join("bdfgk"[i * 7 % 5] + "aeiou"[i * i % 5] for i in range(400))
    (tmp_path / "words.txt").write_text(words, encoding="utf-8")
    options = ("--model", str(text_model_folder), "--data", f"text:{tmp_path / 'words.txt'}")
    sizes = ("--context-tokens", "90", "--continuation-tokens", "30", "--limit", "3")
    done = run("eval", *options, *sizes, "--budgets", "25%,20KiB", "--methods", "h2o,prefixkv", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["samples"] == 3
    assert set(figures["cells"][0]["metrics"]) == {"perplexity", "kl_nats"}
    for cell in figures["cells"][1:]:
        assert cell["kept_bytes"] <= (20 * 1024 if cell["budget"] == "20KiB" else 0.25 * cell["full_bytes"])
        assert cell["metrics"]["kl_nats"]["value"] > 0
    refused = run("eval", *options, "--methods", "h2o")
    notice, error = refused.stderr.splitlines()
    assert refused.returncode == 1
    assert "has no chat template" in notice
    assert "smaller --context-tokens" in error


@pytest.fixture(scope="session")
def text_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama whose words are two letters long, without a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tests import tiny

    words = [a + b for a in "bcdfghjklmnpqrstvwxyz" for b in "aeiou"]
    vocabulary = {word: index for index, word in enumerate(words)} | {"?": 190, "</s>": 198}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("text-model")
    tiny.llama(layers=3).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", eos_token="</s>").save_pretrained(folder)
    return folder


def test_budget_that_is_larger_than_the_cache_is_marked(run: Run) -> None:
    done = run("eval", "--model", "demo", "--data", "scenes:1", "--methods", "h2o", "--budgets", "1GiB")
    assert done.returncode == 0, done.stderr
    assert "! h2o at 1GiB: nothing was evicted; kept 100.00%, asked 100.00%" in done.stdout
    assert "h2o!" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--data", "photos"), 1, "give scenes[:N[:SEED]]"),
        (("--data", "scenes:0"), 2, "give scenes[:N[:SEED]]"),
        (("--data", "scenes", "--methods", "h20"), 2, "did you mean 'h2o'"),
        (("--data", "scenes", "--budgets", "0%"), 2, "outside (0%, 100%]"),
        (("--data", "scenes", "--metrics", "bleu"), 2, "choose from ppl, rouge, accuracy, kl"),
        (("--data", "scenes", "--plot", "x.gif"), 2, "end it in .png, .svg, .pdf"),
        (("--data", "scenes", "--plot", "none/x.png"), 1, "make it first"),
        (("--data", "scenes", "--report", "x.pdf"), 2, "ends in .html"),
        (("--data", "scenes", "--limit", "0"), 2, "limit 0"),
        (("--data", "scenes", "--processes", "0"), 2, "processes 0"),
        (("--data", "scenes", "--max-new-tokens", "0"), 2, "max-new-tokens 0"),
        (("--data", "scenes", "--context-tokens", "1"), 2, "context-tokens 1"),
        (("--data", "text:pyproject.toml", "--metrics", "accuracy"), 2, "leave it out"),
        (("--data", "scenes", "--model", "./nowhere"), 1, "is not there"),
        (("--data", "scenes:1", "--methods", "local", "--budgets", "2tok"), 3, "give at least"),
        ((), 2, "--data"),
    ],
)
def test_errors_are_one_line_with_the_remedy(run: Run, options: tuple[str, ...], code: int, text: str) -> None:
    done = run("eval", "--model", "demo", *options, cwd=Path(__file__).parents[2])
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert text in done.stderr
    assert done.stdout == ""
