"""Every command of the program on a GPU, with the demo model, in one process."""

from __future__ import annotations

import importlib.util
import json
import math
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

import prefixkv
from prefixkv.demo.scenes import draw_scene
from prefixkv.methods.table import METHODS
from prefixkv_cli.program import app
from tests.gpu.conftest import SEED, Program
from tests.gpu.device import DEVICE, DTYPES
from tests.server.running import running, user

pytestmark = pytest.mark.gpu

DEMO = ("--model", "demo", "--device", DEVICE)
COUNT, DESCRIBE, PLACE = "How many objects are there?", "Describe the image.", "Which object is in row 2, column 2?"
OBJECTS = str(len(draw_scene(SEED).objects))
METRICS = ("ppl", "rouge", "accuracy", "kl")
EVICTING = [name for name, method in METHODS.items() if not method.keeps_all]
BUNDLED_PROFILE = str(Path(prefixkv.__file__).parent / "demo" / "profile.json")
per_method = pytest.mark.parametrize("method", METHODS)
per_dtype = pytest.mark.parametrize("dtype", DTYPES)
NOTED = {
    "full": "method 'full' keeps everything: the budget of 50% is not applied",
    "prefixkv-release": "the step is not captured, decoding takes the plain path",
}
"""What the program says of a method when one question is asked."""
ALL_IN_BFLOAT16 = [*((method, "bfloat16") for method in METHODS), ("guided", "float32"), ("guided", "float16")]
per_method_in_16_bits = pytest.mark.parametrize(("method", "dtype"), ALL_IN_BFLOAT16)
COVERED = {
    "chat": "test_chat_once",
    "save": "test_save_and_go_on",
    "contexts": "test_save_and_go_on",
    "profile": "test_profile_search_and_chat_by_the_configuration",
    "search": "test_profile_search_and_chat_by_the_configuration",
    "configs": "test_profile_search_and_chat_by_the_configuration",
    "eval": "test_eval",
    "batch": "test_batch",
    "bench": "test_bench",
    "models": "test_what_asks_no_model",
    "info": "test_what_asks_no_model",
    "demo-scene": "test_what_asks_no_model",
    "completion": "test_what_asks_no_model",
    "env": "test_env_names_the_gpu",
    "settings": "test_what_asks_no_model",
    "log": "test_what_asks_no_model",
    "serve": "test_a_server_answers",
    "lm-eval": "test_a_harness_that_is_missing_is_named",
}
"""Where each command is run."""


def kept(record: dict[str, Any]) -> float:
    """The share of the full cache's bytes that a turn has left."""
    return record["kv"]["kept_bytes"] / record["kv"]["full_bytes"]


def allowed(method: str, share: float) -> float:
    """What a method may keep of a budget; the release rounds every layer by itself, and deletes after a step."""
    return share + 0.01 * (METHODS[method].rounding == "release")


def test_every_command_is_run_here() -> None:
    assert set(typer.main.get_command(app).commands) == set(COVERED)
    assert {name for name in globals() if name.startswith("test_")} >= set(COVERED.values())


@per_dtype
@per_method
def test_chat_once(program: Program, scene: Path, method: str, dtype: str) -> None:
    done = program(
        "chat", str(scene), "-p", COUNT, *DEMO, "--method", method, "--dtype", dtype, "--budget", "50%", "--json"
    )
    record = done.json
    assert record["method"] == method
    assert kept(record) == 1 if METHODS[method].keeps_all else kept(record) <= allowed(method, 0.5)
    # In 8 bits less than half of float32's bytes hold everything.
    assert METHODS[method].packs or kept(record) > 0.4
    assert record["peak_device_bytes"] > record["kv"]["kept_bytes"]
    assert done.err.count("\n") == (method in NOTED)
    assert NOTED.get(method, "") in done.err
    if method in ("full", "guided"):
        assert record["answer"] == OBJECTS


@per_method
def test_three_turns_as_events(program: Program, scene: Path, method: str) -> None:
    questions = ("-p", COUNT, "-p", DESCRIBE, "-p", PLACE)
    done = program(
        "chat",
        str(scene),
        *questions,
        *DEMO,
        "--method",
        method,
        "--dtype",
        "bfloat16",
        "--budget",
        "20%",
        "--json-lines",
    )
    events = done.lines
    turns = [event for event in events if event["event"] == "turn"]
    assert [turn["question"] for turn in turns] == [COUNT, DESCRIBE, PLACE]
    for number, turn in enumerate(turns, start=1):
        pieces = [event["text"] for event in events if event["event"] == "token" and event["turn"] == number]
        assert "".join(pieces).strip() == turn["answer"]
        assert METHODS[method].keeps_all or kept(turn) <= allowed(method, 0.2)
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("end", 0)


def test_plain_text_with_a_table(program: Program, scene: Path, tmp_path: Path) -> None:
    picture = tmp_path / "kept.png"
    done = program("chat", str(scene), "-p", COUNT, *DEMO, "--stats", "--show-kept", str(picture))
    assert done.out.strip() == OBJECTS
    assert len(done.err.splitlines()) > 8
    assert picture.read_bytes().startswith(b"\x89PNG")


@per_method_in_16_bits
def test_save_and_go_on(program: Program, scene: Path, tmp_path: Path, method: str, dtype: str) -> None:
    """What a saved context answers is what the conversation would have answered."""
    how = (*DEMO, "--dtype", dtype, "--method", method, "--budget", "5%")
    file = str(tmp_path / "a.safetensors")
    saved = program("save", str(scene), "-p", COUNT, *how, "--out", file, "--json").json
    shown = program("contexts", "show", file, "--json").json
    assert (shown["method"], shown["model"]["dtype"]) == (method, dtype)
    later = program("chat", "--context", file, "-p", DESCRIBE, *DEMO, "--dtype", dtype, "--json").json
    events = program("chat", str(scene), "-p", COUNT, "-p", DESCRIBE, *how, "--json-lines").lines
    whole = [event["answer"] for event in events if event["event"] == "turn"]
    assert [saved["answer"], later["answer"]] == whole


def test_contexts_by_name(program: Program, scene: Path) -> None:
    """Fewest bits: a budget of 5 % under `guided`."""
    program("save", str(scene), "-p", COUNT, *DEMO, "--budget", "5%", "--name", "low")
    (row,) = program("contexts", "list", "--json").json["contexts"]
    assert row["name"] == "low"
    assert "unchanged since it was saved" in program("contexts", "show", "low").out
    assert program("chat", "--context", "low", "-p", DESCRIBE, *DEMO).out.strip()
    program("contexts", "remove", "low")
    assert program("contexts", "list", "--json").json["contexts"] == []


@per_method_in_16_bits
def test_batch(program: Program, scene: Path, tmp_path: Path, method: str, dtype: str) -> None:
    """Lines of several lengths, answered together; a broken one is told and hinders no other."""
    lines = [{"image": str(scene), "prompt": prompt} for prompt in (COUNT, DESCRIBE, PLACE)]
    file, out = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    lines.append({"image": "missing.png", "prompt": COUNT})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    how = (*DEMO, "--method", method, "--dtype", dtype, "--budget", "50%")
    done = program("batch", str(file), "--out", str(out), *how, "--json", code=1).json
    assert (done["answers"], done["errors"]) == (3, [4])
    answers = [json.loads(line).get("answer") for line in out.read_text(encoding="utf-8").splitlines()]
    assert all(answers[:3])
    if method in ("full", "guided"):
        assert answers[0] == OBJECTS


@per_dtype
def test_eval(program: Program, tmp_path: Path, dtype: str) -> None:
    """Every method with every metric, on questions and on text; the reference and all cells in one run."""
    out = str(tmp_path / "eval")
    what = ("--data", "scenes:4", "--methods", "all", "--budgets", "100%,20%,5%", "--metrics", ",".join(METRICS))
    figures = program("eval", *what, *DEMO, "--dtype", dtype, "--max-new-tokens", "24", "--out", out, "--json").json
    assert {cell["method"] for cell in figures["cells"]} == set(METHODS)
    assert len(figures["cells"]) == 1 + 3 * len(EVICTING)
    for cell in figures["cells"]:
        assert {"perplexity", "rouge_l", "accuracy", "kl_nats"} <= set(cell["metrics"]), cell["method"]
        assert all(math.isfinite(metric["value"]) for metric in cell["metrics"].values())
        # The release lets a layer exceed its share by an entry or two, which are much of a small one.
        assert not cell["marks"] or (cell["method"], cell["marks"]) == ("prefixkv-release", ["off the budget"])
    again = program("eval", *what, *DEMO, "--dtype", dtype, "--max-new-tokens", "24", "--out", out, "--json")
    assert again.json == figures
    assert "4 of 4 samples are measured already" in again.err


@pytest.mark.parametrize("data", ["followups:2", "text"])
def test_eval_of_other_data(program: Program, tmp_path: Path, data: str) -> None:
    if data == "text":
        (tmp_path / "words.txt").write_text("a red circle in row 2, column 3 and a blue square " * 30, encoding="utf-8")
        data = f"text:{tmp_path / 'words.txt'}"
    lengths = ("--context-tokens", "120", "--continuation-tokens", "20")
    how = ("--methods", "all", "--budgets", "20%", "--limit", "2", *lengths, "--side-by-side", "--dtype", "bfloat16")
    figures = program("eval", "--data", data, *how, *DEMO, "--out", str(tmp_path / "eval"), "--json").json
    assert len(figures["cells"]) == 1 + len(EVICTING)
    assert all(math.isfinite(cell["metrics"]["perplexity"]["value"]) for cell in figures["cells"])


def test_profile_search_and_chat_by_the_configuration(program: Program, scene: Path, tmp_path: Path) -> None:
    """The whole round: a profile measured on the GPU, a share, a size and the smallest budget that does, `--config`."""
    profile = str(tmp_path / "profile.json")
    measured = program("profile", *DEMO, "--samples", "2", "--out", profile, "--json")
    assert len(measured.json["layers"]) == 8
    assert program("profile", "diff", profile, BUNDLED_PROFILE, "--json").json
    budgets = {"share": "20%", "size": "400KiB", "smallest": "auto"}
    for name, budget in budgets.items():
        search = ("search", "--model", "demo", "--profile", profile, "--context", "640")
        more = ("--tolerance", "10%") if budget == "auto" else ()
        found = program(*search, "--budget", budget, *more, "--name", name, "--json").json
        assert sum(found["kept_tokens"]) > 0
    assert {row["name"] for row in program("configs", "list", "--json").json["configs"]} == set(budgets)
    for name in budgets:
        assert program("configs", "show", name, "--json").json["name"] == name
        record = program("chat", str(scene), "-p", COUNT, *DEMO, "--config", name, "--json").json
        assert kept(record) < 1
        program("configs", "remove", name)
    assert program("search", "--model", "demo", "--budget", "20%", "--fit", "--json").json["full_bytes"] > 0


@per_dtype
def test_profile(program: Program, tmp_path: Path, dtype: str) -> None:
    profile = tmp_path / "profile.json"
    program("profile", *DEMO, "--dtype", dtype, "--samples", "1", "--out", str(profile), "--plot", f"{profile}.png")
    assert json.loads(profile.read_text(encoding="utf-8"))["model"]["dtype"] == dtype


@per_method_in_16_bits
def test_bench(program: Program, method: str, dtype: str) -> None:
    size = ("--shape", "small", "--context", "128", "--batch", "1,2", "--new-tokens", "6", "--repeats", "1")
    done = program("bench", *size, "--device", DEVICE, "--method", method, "--dtype", dtype, "--json")
    cells = done.json["cells"]
    # `guided` is measured without and with look-ahead queries.
    assert len(cells) == 6 + 2 * METHODS[method].is_guided
    assert all(cell["failure"] is None and cell["step_ms"] > 0 for cell in cells)


def test_env_names_the_gpu(program: Program) -> None:
    record = program("env", "--json").json
    assert record["gpus"]
    assert record["packages"]["torch"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "demo"),
        ("info", "demo", "--picture", "336x336", "--json"),
        ("models",),
        ("models", "--json"),
        ("demo-scene", "{folder}/scene.png", "--seed", "3"),
        ("completion", "bash"),
        ("env",),
        ("settings", "show"),
        ("log", "list"),
        ("--version",),
        ("chat", "--help"),
    ],
    ids=" ".join,
)
def test_what_asks_no_model(program: Program, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = program(*(argument.format(folder=tmp_path) for argument in arguments))
    assert done.out or done.err


def test_a_server_answers(tmp_path: Path, scene: Path) -> None:
    pytest.importorskip("starlette", reason="the server's libraries are not installed (prefixkv[serve])")
    with Image.open(scene) as image, running(tmp_path, "--device", DEVICE, "--budget", "50%") as server:
        body = json.dumps({"messages": [user(COUNT, image.convert("RGB"))]}).encode()
        request = urllib.request.Request(
            f"{server.url}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            found = json.load(answer)
    assert found["choices"][0]["message"]["content"].strip() == OBJECTS
    assert found["prefixkv"]["kv"]["bytes_fraction"] <= 0.5


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-evaluation-harness is installed")
def test_a_harness_that_is_missing_is_named(program: Program) -> None:
    done = program("lm-eval", *DEMO, "--", "--tasks", "any", code=1)
    assert "prefixkv[lm-eval]" in done.err
