"""`prefixkv batch`: many questions about many pictures, from a file to a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefixkv.errors import OUT_OF_MEMORY, DeviceMemoryError, OptionError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.home import find_file
from prefixkv.inputs.template_args import parse_template_args
from prefixkv.methods.table import DEFAULT_METHOD, get_method
from prefixkv.models.loading import check_device_name, check_dtype_name, check_model_name
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, get_codec
from prefixkv.profiles.config import PrefixConfig
from prefixkv_cli import options, output
from prefixkv_cli.batch_files import AnswersElsewhere, is_address
from prefixkv_cli.batch_questions import STREAM, Questions, read_questions
from prefixkv_cli.batch_report import report
from prefixkv_cli.batch_standing import Standing, others
from prefixkv_cli.model_choice import model_for_pictures
from prefixkv_cli.model_loading import load_shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from prefixkv.batch.speed import Speed


def batch(
    invocation: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help='A file of JSON objects, one a line: {"image": PATH, "prompt": TEXT}; or pictures, with --prompt.',
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", metavar="FILE", help="The file of lines; - reads them from stdin.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="Ask this about every picture. May be repeated.",
            # A question holds white space, at which an environment variable would be split.
            allow_from_autoenv=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="TEXT",
            help="Drawn questions: documents:N:SEED or scenes:N:SEED, with what is right as id.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Answers, one JSON object a line; - writes them to stdout as they come.",
            show_default="- with --prompt",
        ),
    ] = None,
    model: options.ModelOption = "auto",
    budget: options.BudgetOption = options.DEFAULT_BUDGET,
    method: options.MethodOption = DEFAULT_METHOD,
    codec: options.CodecOption = DEFAULT_CODEC,
    no_profile: options.NoProfileOption = False,
    config: options.ConfigOption = None,
    system: options.SystemOption = "",
    max_new_tokens: options.MaxNewTokensOption = 512,
    temperature: options.TemperatureOption = 0.0,
    top_p: options.TopPOption = 1.0,
    seed: options.SeedOption = None,
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
            help="What the caches of lines answered together may take, such as 4GiB; or on each GPU: 20GB,10GB.",
            show_default="1GiB, or 60% of the GPU's free memory",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write reads and steps for chrome://tracing or Perfetto."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Answer on the machines of a Ray cluster: auto, ray://HEAD:10001, or local for this one alone.",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", help="Processes that share the lines: one for each GPU, or all on the CPU.")
    ] = 1,
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
    """Answer every line of a file, or ask the same about many pictures; each answer is what it would be alone.

    Lines about the same pictures read these once. The budget is each line's own. An `image` may be a list of several;
    `parts` instead of both is a list of {"text": TEXT} and {"image": PATH}, pictures between texts; relative paths
    start from the file's folder; `system`, `max_new_tokens`, `temperature`, `top_p`, `top_k`, `seed` and `stop` may
    stand in a line, and win over the options. A bad line gets a record with `error` and its number, the others are
    answered, and the exit code is 1, or 4 where memory did not suffice. A run that was stopped goes on where it was;
    one that is finished does nothing again, but tries once more what met an error. Answers are known by what was asked:
    lines may move, and those that ask the same are answered once. `--processes` shares
    them out among several.

    Example: prefixkv batch questions.jsonl --out answers.jsonl --budget 20%

    Example: prefixkv batch photos/*.jpg -p "Describe the image." --out answers.jsonl
    """
    rule = _rule(budget, method, codec, config)
    if max_new_tokens < 1 or rows < 1:
        raise OptionError(f"max-new-tokens {max_new_tokens} and rows {rows} must be 1 or more")
    if limit is not None and limit < 1:
        raise OptionError(f"limit {limit} is too small: give 1 or more")
    drawn = Sampling(max_new_tokens, temperature, top_p, seed, stop=tuple(stop or ()))
    sizes = options.memory_sizes(memory, device_map)
    template_args = parse_template_args(template_arg or ())
    check_device_name(device)
    check_dtype_name(dtype)
    check_model_name(model)
    placement = options.placement(device, device_map, load_in_8bit, load_in_4bit, trust_remote_code)
    # Here, so that the other commands start without the picture code.
    from prefixkv.inputs.picture_size import check_max_pixels

    check_max_pixels(max_pixels)
    questions = read_questions(files or (), prompts, prompt or (), data)
    out_file = _out_file(out, bool(prompt), questions, json)
    elsewhere = AnswersElsewhere(out, overwrite) if out is not None and _is_elsewhere(out) else None
    if elsewhere is not None:
        out_file = elsewhere.path
    if processes < 1 or (processes > 1 and ray is not None):
        raise OptionError(f"processes {processes} must be 1 or more, and 1 where Ray starts them (--ray)")
    if (ray is not None or processes > 1) and (out_file is None or trace is not None):
        name = "--ray" if ray is not None else "--processes"
        raise OptionError(
            f"{name} writes answers to a file, and --trace follows one process: give --out FILE, no --trace"
        )

    from prefixkv.children import Children
    from prefixkv.workers import Launch

    waiting = Children(processes if processes > 1 else 0, "prefixkv.batch.dealt_lines", "answer_dealt")
    with Launch(device) as launch, waiting as children:
        if launch.count > 1 and (ray is not None or processes > 1):
            name = "--ray" if ray is not None else "--processes"
            raise OptionError(f"{name} starts processes itself: run the command by itself, not by a launcher")
        if launch.count > 1 and (out_file is None or questions.file is None):
            raise OptionError("several processes share a file of lines and a file of answers: give both as files")
        standing = Standing(questions, out_file, limit, overwrite)
        standing.look(launch, model, _what_matters(invocation.params) | {"rule": repr(rule)})
        if standing.is_finished:
            speed = None
        else:
            # Before torch is imported here, which they do at the same time.
            children.start()
            from prefixkv.batch.run import Batch

            asked = Batch(
                questions.lines,
                questions.folder,
                rule,
                method,
                max_new_tokens,
                rows,
                sizes,
                output.notice if launch.is_main else _silent,
                _own_trace(trace, launch.number),
                drawn.stop,
                template_args,
                max_pixels,
                keep_marks,
                system,
                {name: value for name, value in _drawing(drawn).items() if value != getattr(Sampling(), name)},
                codec,
            )
            placed = device if device_map is not None else launch.device
            chosen = model_for_pictures(model, placed, _pictures(questions))
            if ray is not None or processes > 1:
                from prefixkv.profiles.loading import Loading

                with others(ray, children, Loading(chosen, device, dtype, placement, no_profile), asked) as helpers:
                    speed = standing.answer_on(helpers, asked)
            else:
                loaded = load_shown(chosen, placed, dtype, asked.notify, placement, launch.is_main)
                if no_profile:
                    from prefixkv.profiles.guidance import leave_out_profile

                    leave_out_profile(loaded.model)
                speed = standing.answer(asked, loaded, launch)
    if launch.is_main:
        if elsewhere is not None:
            elsewhere.publish()
        _report(standing, out if elsewhere is not None else out_file, speed, json)


def _is_elsewhere(out: str) -> bool:
    return is_address(out) or out.endswith(".parquet")


def _pictures(questions: Questions) -> Iterator[Image]:
    """The pictures of the lines, opened when they are asked for, without those that cannot be."""
    for line in questions.lines:
        with suppress(PrefixKVError):
            yield from line.pictures(questions.folder)


def _silent(text: str) -> None:
    pass


def _rule(budget: str, method: str, codec: str, config: str | None) -> Budget | PrefixConfig:
    parsed = Budget.parse(budget)
    get_method(method)
    get_codec(codec)
    if config is None:
        return parsed
    if (budget, method, codec) != (options.DEFAULT_BUDGET, DEFAULT_METHOD, DEFAULT_CODEC):
        raise OptionError("a configuration brings its own budget, method and codec: give either --config or those")
    return PrefixConfig.load(find_file("configs", config))


_ASKS = {"files", "prompts", "prompt", "data"}
_NO_MATTER = _ASKS | {"out", "limit", "overwrite", "rows", "memory", "trace", "ray", "processes", "json", "quiet"}
"""Options that change no answer, or that are seen in its line."""


def _what_matters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options on which answers depend."""
    return {name: value for name, value in given.items() if name not in _NO_MATTER}


def _drawing(drawn: Sampling) -> dict[str, Any]:
    return {name: getattr(drawn, name) for name in ("temperature", "top_p", "seed")}


def _out_file(out: str | None, has_prompt: bool, questions: Questions, json: bool) -> Path | None:
    """The file of answers; None for stdout.

    Raises:
        OptionError: none is named where one must be, or it is the file of questions, or --json is to go the same way.
    """
    if out is None and not has_prompt:
        raise OptionError("missing option '--out': give a file for the answers, or --out - for stdout")
    if out in (None, STREAM):
        if json:
            raise OptionError("--json prints its object on stdout, where the answers go: give --out FILE")
        return None
    path = Path(str(out))
    if questions.file is not None and path.resolve() == questions.file.resolve():
        raise OptionError(f"--out {str(out)!r} is the file of questions: give another")
    return path


def _own_trace(trace: Path | None, process: int) -> Path | None:
    """The file of this process's trace."""
    return trace.with_name(f"{trace.name}.{process}") if trace is not None and process else trace


def _report(standing: Standing, out: str | Path | None, speed: Speed | None, json: bool) -> None:
    from prefixkv.batch.speed import Speed

    report(out, standing.lines, standing.errors, speed or Speed(), json)
    if standing.errors:
        is_full = any(OUT_OF_MEMORY in record["error"] for record in standing.errors)
        raise typer.Exit(DeviceMemoryError.exit_code if is_full else 1)
