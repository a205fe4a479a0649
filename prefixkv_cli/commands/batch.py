"""`prefixkv batch`: many questions about many pictures, from a file to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefixkv.errors import OptionError
from prefixkv.generation.sampling import Sampling
from prefixkv.home import find_file
from prefixkv.inputs.template_args import parse_template_args
from prefixkv.models.loading import check_device_name, check_dtype_name, check_model_name, load_model
from prefixkv.policy.budget import Budget, format_bytes
from prefixkv.policy.methods import DEFAULT_METHOD, get_method
from prefixkv.profiles.config import PrefixConfig
from prefixkv_cli import options, output
from prefixkv_cli.progress_bar import progress_bar

if TYPE_CHECKING:
    from prefixkv.batch.lines import Line
    from prefixkv.batch.results import ResultFile
    from prefixkv.batch.run import Batch
    from prefixkv.batch.run import Progress as BatchProgress
    from prefixkv.batch.speed import Speed


def batch(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help='JSON objects, one a line: {"image": PATH, "prompt": TEXT}.')
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Answers, one JSON object a line.")],
    model: options.ModelOption = "auto",
    budget: options.BudgetOption = options.DEFAULT_BUDGET,
    method: options.MethodOption = DEFAULT_METHOD,
    config: options.ConfigOption = None,
    max_new_tokens: options.MaxNewTokensOption = 512,
    stop: options.StopOption = None,
    template_arg: options.TemplateArgOption = None,
    max_pixels: options.MaxPixelsOption = None,
    keep_marks: options.KeepMarksOption = False,
    rows: Annotated[
        int, typer.Option("--rows", help="Most lines that are answered together; memory may allow fewer.")
    ] = 16,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What the caches of lines answered together may take, such as 4GiB.",
            show_default="1GiB, or 60% of the GPU's free memory",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write reads and steps for chrome://tracing or Perfetto."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Answer the first so many lines only.", show_default="all")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew where FILE of --out exists.")] = False,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    device_map: options.DeviceMapOption = None,
    load_in_8bit: options.EightBitOption = False,
    load_in_4bit: options.FourBitOption = False,
    trust_remote_code: options.TrustOption = False,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Answer every line of a file, many at a time; each answer is what it would be alone.

    Lines about the same pictures read these once. The budget is each line's own. An `image` may be a list of several;
    relative paths start from the file's folder; `system`, `max_new_tokens`, `temperature`, `top_p`, `top_k`, `seed` and
    `stop` may stand in a line. A bad line gets a record with `error` and its number, the others are answered, and the
    exit code is 1. A run that was stopped goes on where it was; one that is finished does nothing again, but tries once
    more what met an error. Answers are known by what was asked: lines may move, and those that ask the same are
    answered once. `accelerate launch -m prefixkv_cli batch ...` divides the lines among processes.

    Example: prefixkv batch questions.jsonl --out answers.jsonl --budget 20%
    """
    # Here, so that the other commands start without the picture code.
    from prefixkv.batch.lines import read_lines
    from prefixkv.batch.run import Batch
    from prefixkv.inputs.picture_size import check_max_pixels

    rule = _rule(budget, method, config)
    if max_new_tokens < 1 or rows < 1:
        raise OptionError(f"max-new-tokens {max_new_tokens} and rows {rows} must be 1 or more")
    if limit is not None and limit < 1:
        raise OptionError(f"limit {limit} is too small: give 1 or more")
    stops = Sampling(stop=tuple(stop or ())).stop
    size = Budget.parse(memory) if memory is not None else None
    if size is not None and size.kind != "bytes":
        raise OptionError(f"memory {memory!r} is no size: give one such as 4GiB")
    template_args = parse_template_args(template_arg or ())
    check_max_pixels(max_pixels)
    check_device_name(device)
    check_dtype_name(dtype)
    check_model_name(model)
    placement = options.placement(device, device_map, load_in_8bit, load_in_4bit, trust_remote_code)
    lines = read_lines(file)
    if out.resolve() == file.resolve():
        raise OptionError(f"--out {str(out)!r} is the file of questions: give another")

    from prefixkv.workers import Launch

    with Launch(device) as launch:
        notify = output.notice if launch.is_main else _silent
        memory_bytes = int(size.amount) if size else None
        if trace is not None and launch.number:
            trace = trace.with_name(f"{trace.name}.{launch.number}")
        asked = Batch(
            lines,
            file.parent,
            rule,
            method,
            max_new_tokens,
            rows,
            memory_bytes,
            notify,
            trace,
            stops,
            template_args,
            max_pixels,
            keep_marks,
        )
        placed = device if device_map is not None else launch.device
        loaded = load_model(model, device=placed, dtype=dtype, notify=notify, placement=placement)
        speed, records = _run(asked, loaded, out, launch, overwrite, limit)
    if records is None:
        return
    # Lines behind the limit keep the answers that an earlier run gave them, and are not this run's matter.
    lines = lines[:limit]
    errors = [records[line.number] for line in lines if "error" in records[line.number]]
    _report(out, lines, errors, speed, json)
    if errors:
        raise typer.Exit(1)


def _silent(text: str) -> None:
    pass


def _rule(budget: str, method: str, config: str | None) -> Budget | PrefixConfig:
    parsed = Budget.parse(budget)
    get_method(method)
    if config is None:
        return parsed
    if budget != options.DEFAULT_BUDGET or method != DEFAULT_METHOD:
        raise OptionError("a configuration brings its own budget and method: give either --config or those")
    return PrefixConfig.load(find_file("configs", config))


def _run(
    asked: Batch, loaded: Any, out: Path, launch: Any, overwrite: bool, limit: int | None
) -> tuple[Speed, dict[int, dict[str, Any]] | None]:
    """How fast it was, and all records; None in a process that does not report."""
    from prefixkv.batch.lines import repeated
    from prefixkv.batch.results import ResultFile
    from prefixkv.batch.speed import Speed

    if isinstance(asked.budget, PrefixConfig):
        asked.budget.require_model(loaded.identity)
    results = ResultFile(out, asked.settings(loaded), launch.number, asked.folder)
    if launch.is_main:
        results.hold()
        if overwrite:
            results.remove()
        _say_what_is_there(results, len(results.gather(asked.lines, retry=True)), len(asked.lines))
    launch.wait()
    # A line that asks what an earlier one asks has its answer in the end.
    done: dict[int, Any] = repeated(asked.lines) | results.read()
    launch.wait()
    wanted = asked.lines[:limit]
    before = sum(line.number in done for line in wanted)
    done.update({line.number: None for line in asked.lines[len(wanted) :]})
    with progress_bar("answering", total=len(wanted), shown=launch.is_main) as update:
        update(completed=before)

        def show(state: BatchProgress) -> None:
            # Only this process's own lines are seen here: each stands for one of every process.
            update(completed=before + state.ended * launch.count, note=_doing(state))

        try:
            own = asked.run(loaded, results, done, launch.number, launch.count, show)
        except KeyboardInterrupt:
            if launch.is_main:
                _say_how_far(results, wanted, launch.count)
            raise
    launch.wait()
    speed = Speed.together(launch.gather([own]))
    if not launch.is_main:
        return speed, None
    records = results.gather(asked.lines)
    results.release()
    return speed, records


def _say_what_is_there(results: ResultFile, answered: int, lines: int) -> None:
    if answered:
        output.notice(f"{answered} of {lines} lines are answered already in {results.path}")
    if results.retried:
        output.notice(f"lines that met an error, and are tried again: {results.retried}")
    if results.set_aside:
        output.notice(
            f"answers to lines that are no longer there, or whose pictures are others now: {results.set_aside}, kept "
            f"in {results.earlier_path}"
        )


def _say_how_far(results: ResultFile, lines: Sequence[Line], processes: int) -> None:
    """After Ctrl-C: what is done, and how to go on."""
    # Other processes' records are in files of their own, to which they may still write.
    there = results.read() if processes == 1 else None
    far = "" if there is None else f"{sum(line.number in there for line in lines)} of {len(lines)} lines are done, "
    output.notice(f"stopped: {far}in {results.path}; the same command goes on from there")


def _doing(state: BatchProgress) -> str:
    """The live line's middle, such as `12 running, 310 tokens/s, cache 40 MiB of 52 MiB, shared 8 MiB`."""
    speed = state.tokens / state.seconds if state.seconds else 0.0
    sizes = f"{format_bytes(state.used_bytes)} of {format_bytes(state.reserved_bytes)}"
    shared = f", shared {format_bytes(state.prefix_bytes)}" if state.prefix_bytes else ""
    return f"{state.running} running, {speed:,.0f} tokens/s, cache {sizes}{shared}"


def _report(out: Path, lines: list[Line], errors: list[dict[str, Any]], speed: Speed, json: bool) -> None:
    for record in errors[:5]:
        output.notice(f"line {record['line']}: {record['error']}")
    if len(errors) > 5:
        output.notice(f"and {len(errors) - 5} more lines with errors")
    output.notice(f"{len(lines) - len(errors)} answers and {len(errors)} errors are in {out}")
    measured = speed.as_dict()
    if measured["tokens_per_second"] is not None:
        output.notice(_spoken(measured))
    if json:
        answers = {"answers": len(lines) - len(errors), "errors": [record["line"] for record in errors]}
        output.write_json({"out": str(out)} | answers | {"speed": measured})


def _spoken(speed: dict[str, Any]) -> str:
    """One line of what was measured: the median, and what 90 and 99 % are within."""
    said = f"{speed['tokens_per_second']:,.1f} tokens/s"
    for name, unit, scale in (
        ("first_token_seconds", "s to the first token", 1),
        ("token_seconds", "ms a token", 1000),
    ):
        if found := speed[name]:
            said += "; " + " / ".join(f"{value * scale:.3g}" for value in found.values()) + f" {unit}"
    return said + (" (median / 90 % / 99 %)" if speed["first_token_seconds"] else "")
