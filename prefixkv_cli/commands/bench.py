"""`prefixkv bench`: what prefill and decoding cost, beside stock transformers."""

from __future__ import annotations

import re
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefixkv.errors import OptionError
from prefixkv.methods.table import DEFAULT_METHOD, get_method
from prefixkv.models.loading import check_device_name, check_dtype_name, check_model_name
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, get_codec
from prefixkv_cli import options, output
from prefixkv_cli.progress_bar import progress_bar
from prefixkv_cli.tables.bench_table import bench_table, progress_line

if TYPE_CHECKING:
    from prefixkv.benchmark.cell import Cell
    from prefixkv.benchmark.plan import Plan

MAX_BATCH = "max"
ROWS_OF_MAX = 8
"""Rows that are read in one pass where as many as the device holds are sought, unless the user says otherwise."""
FEWEST_TOKENS = 4


def bench(
    model: Annotated[
        str | None, typer.Option("--model", help="Measure this model, with its weights.", show_default="demo")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape", help="Measure random weights of this shape: llava-1.5-7b, llava-1.5-13b, qwen2-vl-7b or small."
        ),
    ] = None,
    context: Annotated[
        str, typer.Option("--context-tokens", "--context", metavar="N", help="Tokens of a prompt; several: 640,2944.")
    ] = "640",
    batch: Annotated[
        str, typer.Option("--batch", metavar="N", help="Rows; several: 1,16. max: as many as the device holds.")
    ] = "1",
    budgets: Annotated[str, typer.Option("--budgets", metavar="LIST", help="Budgets to measure.")] = "100%,20%",
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Tokens generated for each row.")] = 32,
    method: options.MethodOption = DEFAULT_METHOD,
    codec: options.CodecOption = DEFAULT_CODEC,
    baseline: Annotated[
        str, typer.Option("--baseline", help="hf: stock generate with a full cache, in the same run; or none.")
    ] = "hf",
    equal_shares: Annotated[
        bool,
        typer.Option(
            "--equal-shares",
            help="All layers keep the same number of entries, instead of the shares that the method gives them.",
        ),
    ] = False,
    rows_at_once: Annotated[
        int | None,
        typer.Option(
            "--rows-at-once",
            help="Rows read in one pass.",
            show_default=f"all; {ROWS_OF_MAX} with --batch {MAX_BATCH}",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Measured prefills of each cell.")] = 3,
    path: Annotated[
        str,
        typer.Option(
            "--path",
            help="decode: each step by itself; generate: stock generate in compress, beside its static cache; "
            "chat: answers of a conversation; batch: requests of the engine that batch uses.",
        ),
    ] = "decode",
    padding: Annotated[
        int,
        typer.Option("--padding", help="Rows are shorter by 0 up to so many tokens, with --path generate or batch."),
    ] = 0,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures to this file, as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw them, to a .png or .svg file.")] = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Measure time and memory of prefill and decoding at each budget, beside stock transformers in the same run.

    Example: prefixkv bench --shape llava-1.5-7b --context-tokens 2944 --batch 16 --budgets 100%,20%
    """
    if model is not None and shape is not None:
        raise OptionError("give either --model or --shape")
    if baseline not in ("hf", "none"):
        raise OptionError(f"baseline {baseline!r} is not known: choose hf or none")
    if new_tokens < FEWEST_TOKENS or repeats < 1 or (rows_at_once is not None and rows_at_once < 1):
        given = f"new-tokens {new_tokens}, repeats {repeats}, rows-at-once {rows_at_once}"
        raise OptionError(f"{given}: give at least {FEWEST_TOKENS}, 1 and 1")
    options.check_plot(plot)
    if path not in ("decode", "generate", "chat", "batch"):
        raise OptionError(f"path {path!r} is not known: choose decode, generate, chat or batch")
    contexts = _numbers("context", context)
    if not 0 <= padding < min(contexts) or (padding and path in ("decode", "chat")):
        raise OptionError(
            f"padding {padding} with --path {path}: give --path generate or batch, and 0 .. {min(contexts) - 1}"
        )
    if batch == MAX_BATCH and path != "decode":
        raise OptionError("--batch max is for --path decode: give a number of rows")
    if path == "chat" and batch != "1":
        raise OptionError(f"--path chat is one row, and --batch is {batch}: leave it away")
    names = tuple(Budget.parse(text).text for text in budgets.split(",") if text.strip())
    if not names:
        raise OptionError(f"budgets {budgets!r} is empty: give one or several, such as 100%,20%")
    get_method(method)
    get_codec(codec)
    check_device_name(device)
    check_dtype_name(dtype)
    batches = (0,) if batch == MAX_BATCH else _numbers("batch", batch)
    if batch == MAX_BATCH and rows_at_once is None:
        rows_at_once = ROWS_OF_MAX
    check_model_name(model or "demo")
    from prefixkv.benchmark.plan import Plan

    plan = Plan(
        contexts,
        batches,
        names,
        new_tokens,
        method,
        baseline == "hf",
        rows_at_once,
        equal_shares,
        repeats,
        path,
        padding,
        codec,
    )
    record = _measure(plan, model, shape, device, dtype)
    if plan.rows_at_once is not None:
        output.notice(f"rows were read {plan.rows_at_once} at a time")
    if out is not None:
        from prefixkv.documents import write_json

        write_json(out, record)
        output.notice(f"saved {out}")
    if plot is not None:
        from prefixkv_cli.plots.bench_plot import draw_benchmark

        draw_benchmark(record, plot)
        output.notice(f"saved {plot}")
    if json:
        output.write_json(record)
    else:
        output.stdout_console().print(bench_table(record))


def _measure(plan: Plan, model: str | None, shape: str | None, device: str, dtype: str) -> dict[str, Any]:
    from prefixkv.benchmark.plan import run_benchmark

    if shape is None:
        from prefixkv_cli.model_loading import load_shown

        loaded = load_shown(model or "demo", device, dtype)
        built, geometry, name = loaded.model, loaded.geometry, loaded.id
    else:
        from prefixkv.benchmark.random_model import build_shape

        built, geometry = build_shape(shape, device, dtype)
        name = shape
    numbers = count(1)
    with progress_bar(
        "measuring", total=len(plan.contexts) * len(plan.batches) * (len(plan.budgets) + plan.baseline)
    ) as update:

        def done(cell: Cell) -> None:
            line = progress_line(cell.as_dict())
            update(completed=next(numbers), note=line)
            if not output.is_terminal(sys.stderr):
                output.notice(line)

        return run_benchmark(plan, built, geometry, name, done)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,7}", part) and int(part) for part in parts):
        allowed = "whole numbers from 1 on, such as 640,2944" + (f", or {MAX_BATCH}" if name == "batch" else "")
        raise OptionError(f"{name} {text!r} is not understood: give {allowed}")
    return tuple(int(part) for part in parts)
