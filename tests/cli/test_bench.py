"""`prefixkv bench` as a user runs it, on small models on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from prefixkv.benchmark import generate_path, random_model
from prefixkv.benchmark.load import Load
from prefixkv.benchmark.plan import Plan, run_benchmark
from prefixkv.cache import reading_graphs
from prefixkv.decoder import captured
from prefixkv_cli.tables.bench_table import bench_table
from tests.cli.program import Run

QUICK = ("--new-tokens", "5", "--repeats", "1", "--device", "cpu", "--method", "h2o")


@pytest.mark.exhaustive
def test_every_cell_is_measured_against_stock_generate(run: Run, tmp_path: Path) -> None:
    """Cells in order; bytes that follow from the shape; a share of the cache that is the budget's."""
    out, picture = tmp_path / "figures.json", tmp_path / "figures.png"
    done = run(
        "bench",
        "--shape",
        "small",
        "--context",
        "60,90",
        "--batch",
        "1",
        *QUICK,
        "--out",
        str(out),
        "--plot",
        str(picture),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert json.loads(out.read_text()) == record
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert record["copy_bytes_per_second"] > 0
    assert record["versions"]["torch"]
    assert record["captured"] == {"graphs": 0, "bytes": 0, "reading_bytes": 0}
    cells = record["cells"]
    assert [(cell["context_tokens"], cell["engine"], cell["budget"]) for cell in cells] == [
        (context, engine, budget)
        for context in (60, 90)
        for engine, budget in (("transformers", "100%"), ("prefixkv", "100%"), ("prefixkv", "20%"))
    ]
    token_bytes = 4 * 2 * 4 * 32 * 4
    for stock, full, fifth in (cells[:3], cells[3:]):
        read = stock["context_tokens"] + 4
        assert stock["kv_bytes"] == full["kv_bytes"] == read * token_bytes
        assert 0.9 * 0.2 * full["kv_bytes"] < fifth["kv_bytes"] <= 0.2 * full["kv_bytes"]
        assert fifth["roofline_ms"] < full["roofline_ms"]
        for cell in (stock, full, fifth):
            assert min(cell["prefill_ms"], cell["step_ms"], cell["tokens_per_second"]) > 0
            assert cell["roofline_share"] == pytest.approx(cell["roofline_ms"] / cell["step_ms"])


def test_bytes_of_captured_steps_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {(1, (16,)): SimpleNamespace(bytes=2**20), (16, (16,)): SimpleNamespace(bytes=2**21)}
    model, geometry = random_model.build_shape("small", "cpu", "auto")
    monkeypatch.setitem(captured._captured, model, steps)
    monkeypatch.setitem(reading_graphs._graphs, model, SimpleNamespace(bytes=2**20))
    record = run_benchmark(Plan((40,), (1,), ("50%",), 4, "h2o", False, repeats=1), model, geometry, "small")
    assert record["captured"] == {"graphs": 2, "bytes": 3 * 2**20, "reading_bytes": 2**20}
    console = Console(width=200)
    with console.capture() as shown:
        console.print(bench_table(record))
    assert "captured steps: 2, 3 MiB; captured parts of reading: 1 MiB" in shown.get()


@pytest.mark.exhaustive
def test_rows_that_are_read_in_chunks_are_joined(run: Run) -> None:
    arguments = ("bench", "--shape", "small", "--context", "50", "--batch", "5", "--baseline", "none", *QUICK, "--json")
    whole, chunked = run(*arguments, "--equal-shares"), run(*arguments, "--rows-at-once", "2")
    sizes = [[cell["kv_bytes"] for cell in json.loads(done.stdout)["cells"]] for done in (whole, chunked)]
    assert sizes[0] == sizes[1]


@pytest.mark.exhaustive
def test_generate_is_measured_as_a_user_calls_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded rows; a static cache, which is compiled, is a peer on a GPU only."""
    for name, value in (("FEW_TOKENS", 2), ("MANY_TOKENS", 6), ("RUNS", 1)):
        monkeypatch.setattr(generate_path, name, value)
    arguments = ("--shape", "small", "--context-tokens", "50", "--batch", "3", "--budgets", "40%", *QUICK)
    done = run("bench", *arguments, "--path", "generate", "--padding", "20", "--json")
    assert done.returncode == 0, done.stderr
    stock, own = json.loads(done.stdout)["cells"]
    assert [stock["engine"], own["engine"], own["path"]] == ["transformers", "prefixkv", "generate"]
    # Rows of 50, 40 and 30 tokens of their own, and 5 that were read again.
    assert own["kv_bytes"] == sum(int(0.4 * 4 * tokens) for tokens in (55, 45, 35)) * 2 * 4 * 32 * 4


@pytest.mark.exhaustive
def test_an_answer_of_a_conversation_is_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FEW_TOKENS", 2), ("MANY_TOKENS", 6), ("RUNS", 1)):
        monkeypatch.setattr(generate_path, name, value)
    arguments = ("--shape", "small", "--context-tokens", "50", "--budgets", "40%", *QUICK)
    done = run("bench", *arguments, "--path", "chat", "--json")
    assert done.returncode == 0, done.stderr
    stock, own = json.loads(done.stdout)["cells"]
    assert [stock["path"], own["engine"], own["path"]] == ["generate", "prefixkv", "chat"]
    # A row of 50 tokens, and 5 that were read again.
    assert own["kv_bytes"] == int(0.4 * 4 * 55) * 2 * 4 * 32 * 4


@pytest.mark.exhaustive
def test_requests_of_the_engine_are_measured_beside_stock_generate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FEW_TOKENS", 2), ("MANY_TOKENS", 6), ("RUNS", 1)):
        monkeypatch.setattr(generate_path, name, value)
    arguments = ("--shape", "small", "--context-tokens", "50", "--batch", "3", "--budgets", "40%", *QUICK)
    done = run("bench", *arguments, "--path", "batch", "--padding", "20", "--json")
    assert done.returncode == 0, done.stderr
    stock, own = json.loads(done.stdout)["cells"]
    assert [stock["engine"], stock["path"], own["engine"], own["path"]] == [
        "transformers",
        "generate",
        "prefixkv",
        "batch",
    ]
    assert own["step_ms"] > 0
    assert own["tokens_per_second"] == pytest.approx(3 / own["step_ms"] * 1000)


def test_a_shape_with_a_vision_tower_is_asked_about_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setitem(
        random_model.TOWERS, "small", small | {"image_size": 28, "patch_size": 14, "projection_dim": 16}
    )
    model, geometry = random_model.build_shape("small", "cpu", "float32")
    inputs = Load(model, geometry, context_tokens=20, batch=2, new_tokens=4, bandwidth=1.0, padding_tokens=5).inputs()
    assert (inputs["input_ids"] == model.config.image_token_index).nonzero()[:, 1].tolist() == [6, 7, 8, 9] * 2
    assert inputs["pixel_values"].shape == (2, 3, 28, 28)
    assert model(**inputs).logits.shape[:2] == (2, 20)


def test_table_is_on_stdout_and_fits_a_terminal(run: Run) -> None:
    done = run("bench", "--shape", "small", "--context", "40", "--budgets", "50%", *QUICK)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].strip() == "40 tokens, 1 row"
    assert [line.split()[0] for line in lines[2:4]] == ["transformers", "50%"]
    assert max(map(len, lines)) <= 80
    assert done.stderr.count("note:") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shape", "gpt-9"), "shape 'gpt-9' is not known: choose llava-1.5-7b"),
        (("--context", "0"), "context '0' is not understood: give whole numbers"),
        (("--batch", "many"), "or max"),
        (("--budgets", ","), "is empty"),
        (("--new-tokens", "1"), "give at least 4"),
        (("--baseline", "vllm"), "choose hf or none"),
        (("--path", "vllm"), "choose decode, generate, chat or batch"),
        (("--path", "chat", "--batch", "2"), "--path chat is one row, and --batch is 2"),
        (("--padding", "9"), "give --path generate"),
        (("--plot", "figures.doc"), "end it in .png, .svg"),
        (("--shape", "small", "--device", "cpu", "--batch", "max"), "give a number of rows, max is for GPUs"),
        (("--shape", "small", "--device", "cpu", "--context", "65530"), "leave the model 6 positions"),
        (("--shape", "small", "--model", "demo"), "either --model or --shape"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    done = run("bench", *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.exhaustive
def test_guided_is_measured_with_random_look_ahead_and_without(run: Run) -> None:
    quick = ("--new-tokens", "4", "--repeats", "1", "--device", "cpu", "--baseline", "none", "--context", "60")
    done = run("bench", "--shape", "small", *quick, "--method", "guided", "--json")
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert [(cell["budget"], cell["look_ahead_queries"]) for cell in cells] == [
        ("100%", None),
        ("20%", 128),
        ("20%", 0),
    ]
    # With a profile entries are packed in 4 bits here, without in 8: less of the budget is left over.
    whole = cells[0]["kv_bytes"]
    # The model runs in float32, of whose bytes a fifth of a 16-bit cache is a tenth.
    assert all(0.06 * whole < cell["kv_bytes"] <= 0.1 * whole for cell in cells[1:])
    assert "20% no look-ahead" in done.stderr
