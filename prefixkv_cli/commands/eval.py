"""`prefixkv eval`: what compression costs in quality, method by method at the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import DEFAULT_METHOD
from prefixkv.models.loading import check_device_name, check_dtype_name, check_model_name
from prefixkv.policy.codec import CODECS, DEFAULT_CODEC
from prefixkv_cli import options, output
from prefixkv_cli import self_check as self_checks
from prefixkv_cli.model_choice import model_for_data
from prefixkv_cli.progress_bar import progress_bar
from prefixkv_cli.reports.page import check_report

if TYPE_CHECKING:
    from PIL.Image import Image

    from prefixkv.children import Children
    from prefixkv.evaluation.run import Evaluation

METRICS = ("ppl", "rouge", "accuracy", "kl")


def evaluate(
    invocation: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="scenes, scenes:N or scenes:N:SEED (drawn, with answers), followups and documents (likewise), "
            "needle or needle:TOKENS (facts in long texts), text:FILE (or a folder), pictures:FOLDER (or one; the full "
            "cache's answers are the reference), or a JSON file shaped as LLaVA-Description or MM-Vet.",
        ),
    ],
    model: options.ModelOption = "auto",
    budgets: Annotated[
        str,
        typer.Option(
            "--budgets",
            help="What the cache may keep, with commas between.",
            show_default="100%, 50%, 30%, 20%, 10%",
        ),
    ] = "100%,50%,30%,20%,10%",
    methods: Annotated[str, typer.Option("--methods", help="all, or names with commas between.")] = "all",
    codecs: Annotated[
        str,
        typer.Option(
            "--codecs",
            "--codec",
            metavar="NAMES",
            help=f"In which precision entries are stored, with commas between: {', '.join(CODECS)}.",
        ),
    ] = DEFAULT_CODEC,
    no_profile: options.NoProfileOption = False,
    self_check: Annotated[
        bool,
        typer.Option(
            "--self-check",
            help=f"Ask {self_checks.SAMPLES} questions of the data, in about a minute, and say whether guided at 20% "
            "answers as the full cache does, and which layers are compressed; --budgets, --methods and --codecs choose "
            "what is checked.",
        ),
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="ppl (perplexity), rouge (ROUGE-L against the full cache's answer), accuracy, kl (divergence from the "
            "full cache), with commas between.",
            show_default="all that the data allows",
        ),
    ] = None,
    follow_up: Annotated[
        bool, typer.Option("--follow-up", help="Ask the second question after the first one was compressed.")
    ] = False,
    images: options.ImagesOption = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Take so many samples.", show_default="all")] = None,
    max_new_tokens: options.MaxNewTokensOption = 320,
    context_tokens: Annotated[int, typer.Option("--context-tokens", help="Of a text: tokens to compress.")] = 1024,
    continuation_tokens: Annotated[
        int, typer.Option("--continuation-tokens", help="Of a text: tokens behind them to predict.")
    ] = 256,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the records; a run goes on from them.", show_default="by model and data"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw quality against kept bytes to a .png, .svg or .pdf.")
    ] = None,
    report: options.ReportOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values, one line a cell.")] = False,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Show both ends of each interval instead of half its width.")
    ] = False,
    by_kind: Annotated[bool, typer.Option("--by-kind", help="Show accuracy by kind of question too.")] = False,
    first_token: Annotated[
        str,
        typer.Option(
            "--first-token",
            help="Where an answer's first token comes from: cache, a step on the compressed cache that reads the "
            "prompt's last token; or prompt, the prompt's own pass, before anything is evicted, as in the paper.",
        ),
    ] = "cache",
    processes: Annotated[
        int | None,
        typer.Option("--processes", help="Processes on this machine.", show_default="what it is good for"),
    ] = None,
    side_by_side: Annotated[
        bool | None,
        typer.Option(
            "--side-by-side/--one-by-one",
            help="Decode all cells of several samples as one batch, which is faster and the same but for rounding; or "
            "one token of one cell at a time.",
            show_default="side by side on a GPU, and for texts",
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    device_map: options.DeviceMapOption = None,
    load_in_8bit: options.EightBitOption = False,
    load_in_4bit: options.FourBitOption = False,
    trust_remote_code: options.TrustOption = False,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Measure every method at the same bytes against the full cache: perplexity, ROUGE-L, accuracy, divergence.

    Example: prefixkv eval --model demo --data scenes:200 --budgets 50%,20% --plot quality.png
    """
    from prefixkv.evaluation.cells import cells_of
    from prefixkv.evaluation.data import FIRST_TOKENS, DataSource

    options.check_plot(plot)
    if plot is not None and not plot.parent.is_dir():
        raise PrefixKVError(f"there is no folder {plot.parent} for the plot: make it first")
    check_report(report)
    if context_tokens < 2 or continuation_tokens < 1:
        raise OptionError(
            f"context-tokens {context_tokens}, continuation-tokens {continuation_tokens}: give 2 and 1 or more"
        )
    if processes is not None and processes < 1:
        raise OptionError(f"processes {processes} is too small: give 1 or more")
    if json + markdown + csv > 1:
        raise OptionError("give one of --json, --markdown and --csv: each takes all of stdout")
    if first_token not in FIRST_TOKENS:
        raise OptionError(f"first-token {first_token!r} is not known: choose one of {', '.join(FIRST_TOKENS)}")
    if self_check:
        given = options.on_command_line(invocation)
        budgets = budgets if "budgets" in given else self_checks.BUDGET
        methods = methods if "methods" in given else DEFAULT_METHOD
        metrics, limit = metrics or "rouge,kl", limit or self_checks.SAMPLES
        max_new_tokens = max_new_tokens if "max_new_tokens" in given else self_checks.NEW_TOKENS
        if not {"rouge", "kl"} <= set(_metrics(metrics)):
            raise OptionError(f"metrics {metrics!r} do not suffice for --self-check: leave --metrics out")
    Sampling(max_new_tokens)
    cells = cells_of(methods, budgets, codecs)
    wanted = _metrics(metrics)
    check_device_name(device)
    check_dtype_name(dtype)
    check_model_name(model)
    placement = options.placement(device, device_map, load_in_8bit, load_in_4bit, trust_remote_code)
    source = DataSource.parse(data, limit, images, follow_up)
    if source.kind == "text" and "accuracy" in wanted:
        raise OptionError("metric 'accuracy' needs right answers, and plain text has none: leave it out")
    pictures: Iterator[Image] = iter(())
    if source.kind in ("file", "pictures"):
        pictures = (question.picture() for question in source.questions() if question.picture is not None)
    from prefixkv.evaluation.other_processes import further_processes

    with further_processes(source, processes) as children:
        # Before torch is imported here, which they do at the same time.
        children.start()
        model = model_for_data(model, device, pictures, source.kind in ("scenes", "followups", "documents"), data)

        from prefixkv.evaluation.run import Evaluation

        figures = _run(
            Evaluation(
                model,
                source,
                tuple(cells),
                wanted,
                max_new_tokens,
                context_tokens,
                continuation_tokens,
                out,
                device,
                dtype,
                processes,
                side_by_side,
                placement,
                first_token,
                not no_profile,
            ),
            children,
        )
    if figures is None:
        return
    if plot is not None:
        from prefixkv_cli.plots.eval_plot import draw_evaluation

        draw_evaluation(figures, plot)
        output.notice(f"drew {plot}")
    if report is not None:
        from prefixkv_cli.reports.eval_page import write_evaluation

        write_evaluation(figures, report)
        output.notice(f"wrote {report}")
    if self_check:
        from prefixkv.models.facts import model_facts

        geometry = model_facts(model, [], output.notice, trust_remote_code).geometry
        for line in self_checks.conclusions(figures, geometry):
            output.notice(line)
    if json:
        _say_what_is_odd(figures)
        output.write_json(figures)
    elif markdown or csv:
        from prefixkv_cli.tables import eval_export

        _say_what_is_odd(figures)
        output.write_text(eval_export.markdown(figures) if markdown else eval_export.comma_separated(figures))
    else:
        _show(figures, by_kind, intervals)


def _metrics(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in wanted if name not in METRICS]
    if unknown or not wanted:
        raise OptionError(f"metric {(unknown or [text])[0]!r} is not known: choose from {', '.join(METRICS)}")
    return wanted


def _run(evaluation: Evaluation, children: Children) -> dict[str, Any] | None:
    with progress_bar("measuring") as update:
        try:
            return evaluation.run(lambda done, total: update(completed=done, total=total), output.notice, children)
        except KeyboardInterrupt:
            output.notice("stopped: the same command goes on from here")
            raise


def _say_what_is_odd(figures: Mapping[str, Any]) -> None:
    from prefixkv_cli.tables.eval_table import label, shared_line

    shared = shared_line(figures["cells"])
    if shared:
        output.notice(shared)
    for cell in figures["cells"]:
        for mark in cell["marks"]:
            output.notice(
                f"{label(cell)} at {cell['budget']}: {mark} (kept {cell['bytes_fraction']:.2%}, "
                f"asked {cell['asked_fraction']:.2%})"
            )


def _show(figures: Mapping[str, Any], by_kind: bool, intervals: bool) -> None:
    """The tables, on stdout; as wide as they are where that is no terminal."""
    from rich.console import Group

    from prefixkv_cli.tables.eval_table import eval_table, kinds_table

    console = output.stdout_console()
    if not output.is_terminal(sys.stdout):
        console.width = 240
    tables = [eval_table(figures, console.width, intervals)]
    if by_kind and figures["cells"][0]["kinds"]:
        tables += [Group("", kinds_table(figures))]
    with console.capture() as captured:
        console.print(*tables, sep="\n")
    output.write_text(captured.get())
