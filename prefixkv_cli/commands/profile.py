"""`prefixkv profile`: measure how concentrated every layer's importance is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prefixkv.errors import OptionError
from prefixkv.home import find_file, named_file
from prefixkv.models import check_device_name, check_dtype_name, check_model_name, load_model, profile_name
from prefixkv.profile import LayerProfile
from prefixkv_cli import options, output
from prefixkv_cli.profile_table import difference_table, profile_table

if TYPE_CHECKING:
    from prefixkv.calibration import Sample

app = typer.Typer(
    help="Measure a model's layers, once.\n\nExample: prefixkv profile --model llava --images photos/",
    invoke_without_command=True,
)


@app.callback()
def profile(
    context: typer.Context,
    model: options.ModelOption = "auto",
    images: Annotated[Path | None, typer.Option("--images", help="Folder of pictures.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="JSON list in the shape of LLaVA-Description or MM-Vet.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Text file, one prompt a line.")] = None,
    samples: Annotated[int, typer.Option("--samples", help="How many samples.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="First seed of drawn scenes.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; else by the model's name.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the layers' curves to a .png or .svg.")] = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    json: options.JsonOption = False,
) -> None:
    """Run calibration samples and save every layer's importance curve.

    Example: prefixkv profile --model llava --images photos/
    """
    if context.invoked_subcommand is not None:
        return
    if samples < 1:
        raise OptionError(f"samples {samples} is too small: give 1 or more")
    if images is not None and data is not None:
        raise OptionError("give either --images or --data")
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise OptionError(f"plot {str(plot)!r} must end in .png or .svg")
    check_device_name(device)
    check_dtype_name(dtype)
    check_model_name(model)
    chosen, source = _samples(images, data, prompts, samples, seed)
    path = out if out is not None else named_file("profiles", profile_name(model))
    measured = measure_to(path, model, chosen, source, device, dtype)
    if plot is not None:
        from prefixkv_cli.profile_plot import draw_profile

        draw_profile(measured, plot)
        output.notice(f"drew {plot}")
    if json:
        output.write_json(measured.as_dict())
    else:
        output.show(profile_table(measured))


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="Name or file of a profile.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Name or file of another.")],
    json: options.JsonOption = False,
) -> None:
    """Say how far two profiles are apart, and what that means for a budget of 20 %.

    Example: prefixkv profile diff demo photos
    """
    profiles = [LayerProfile.load(find_file("profiles", name)) for name in (first, second)]
    record, table = difference_table(*profiles)
    if json:
        output.write_json(record)
    else:
        output.show(table)


def measure_to(
    path: Path,
    model: str,
    samples: list[Sample] | None = None,
    source: str = "",
    device: str = "auto",
    dtype: str = "auto",
) -> LayerProfile:
    """Measure a profile with a progress bar and save it.

    Args:
        path: where.
        model: name of the model.
        samples: what to run; ten drawn scenes where None.
        source: what they are, in words.
        device: as for `load_model`.
        dtype: as for `load_model`.
    """
    if samples is None:
        samples, source = _samples(None, None, None, 10, 0)
    loaded = load_model(model, device=device, dtype=dtype, notify=output.notice)
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = output.stderr_console()
    with Progress(*columns, console=console, transient=True, disable=not output.is_terminal(sys.stderr)) as bar:
        task = bar.add_task("measuring", total=len(samples))
        measured = LayerProfile.measure(loaded, samples, source, progress=lambda done: bar.update(task, completed=done))
    measured.save(path)
    output.notice(f"saved {path}")
    return measured


def _samples(
    images: Path | None, data: Path | None, prompts: Path | None, count: int, seed: int
) -> tuple[list[Sample], str]:
    """The samples and where they come from."""
    from prefixkv import calibration

    texts = calibration.read_prompts(prompts) if prompts else [calibration.DEFAULT_PROMPT]
    if images is not None:
        return calibration.folder_samples(images, count, texts), f"pictures of {images.name}"
    if data is not None:
        return calibration.data_samples(data, count), data.name
    output.notice("no --images and no --data: the samples are drawn scenes of coloured shapes")
    return calibration.drawn_samples(count, seed), f"drawn scenes {seed} to {seed + count - 1}"
