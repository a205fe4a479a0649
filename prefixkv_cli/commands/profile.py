"""`prefixkv profile`: measure how concentrated every layer's importance is."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefixkv.errors import OptionError
from prefixkv.home import named_file, names
from prefixkv.models.loading import (
    Placement,
    check_device_name,
    check_dtype_name,
    check_model_name,
    profile_name,
)
from prefixkv.profiles.profile import LayerProfile
from prefixkv_cli import options, output
from prefixkv_cli.help_panels import PanelledTyper
from prefixkv_cli.model_choice import model_for_data
from prefixkv_cli.model_loading import load_shown
from prefixkv_cli.progress_bar import progress_bar
from prefixkv_cli.reports.page import check_report
from prefixkv_cli.saved_files import remove_saved
from prefixkv_cli.tables.profile_table import difference_table, profile_table
from prefixkv_cli.tables.saved_table import count, readable, saved_row, show_saved_files

if TYPE_CHECKING:
    from prefixkv.models.loading import Notify
    from prefixkv.profiles.calibration import Sample
    from prefixkv.workers import Launch

DEFAULT_SAMPLES = 10

app = PanelledTyper(
    help="Measure a model's layers, once; list, show, compare and remove profiles."
    "\n\nExample: prefixkv profile --model llava --images photos/",
    invoke_without_command=True,
)


@app.callback()
def profile(
    context: typer.Context,
    model: options.ModelOption = "auto",
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Folder of a data file's pictures; without --data, of pictures that are samples themselves.",
            show_default="beside the file",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="As for eval: scenes[:N[:SEED]] or documents[:N[:SEED]] (drawn), text:FILE (or a folder; pieces of "
            "it), or a JSON file shaped as LLaVA-Description or MM-Vet.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Text file, one prompt a line, for the pictures of a folder.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="How many samples.", show_default="10, or the N of scenes:N")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            envvar="PREFIXKV_SCENE_SEED",
            help="First seed of drawn scenes, where --data names none.",
            show_default="0",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; else by the model's name.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the layers' curves to a .png or .svg.")] = None,
    report: options.ReportOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    device_map: options.DeviceMapOption = None,
    load_in_8bit: options.EightBitOption = False,
    load_in_4bit: options.FourBitOption = False,
    trust_remote_code: options.TrustOption = False,
    json: options.JsonOption = False,
) -> None:
    """Run calibration samples and save every layer's importance curve.

    `accelerate launch -m prefixkv_cli profile ...` divides the samples among processes; the profile is the same.

    Example: prefixkv profile --model llava --images photos/
    """
    if context.invoked_subcommand is not None:
        return
    if samples is not None and samples < 1:
        raise OptionError(f"samples {samples} is too small: give 1 or more")
    if prompts is not None and (images is None or data is not None):
        raise OptionError("--prompts are for the pictures of a folder: give --images FOLDER, and no --data")
    if seed is not None and (images is not None or data is not None):
        raise OptionError("--seed is of the scenes that are drawn without --data and --images: give scenes:N:SEED")
    options.check_plot(plot)
    check_report(report)
    check_device_name(device)
    check_dtype_name(dtype)
    check_model_name(model)
    placement = options.placement(device, device_map, load_in_8bit, load_in_4bit, trust_remote_code)
    from prefixkv.workers import Launch

    with Launch(device) as launch:
        notify = output.notice if launch.is_main else _silent
        chosen, source = _samples(images, data, prompts, samples, seed, notify)
        pictures = (sample.image for sample in chosen if sample.image is not None)
        is_drawn = data.startswith(("scenes", "documents")) if data is not None else images is None
        model = model_for_data(model, device, pictures, is_drawn, source, notify)
        path = out if out is not None else named_file("profiles", profile_name(model))
        measured = measure_to(path, model, chosen, source, device, dtype, placement, launch)
    if not launch.is_main:
        return
    if plot is not None:
        from prefixkv_cli.plots.profile_plot import draw_profile

        draw_profile(measured, plot)
        output.notice(f"drew {plot}")
    if report is not None:
        _write_report(measured, report)
    if json:
        # As it is in the file, which names the one beside it.
        output.write_json(LayerProfile.load(path).as_dict())
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
    profiles = [LayerProfile.load(name) for name in (first, second)]
    record, table = difference_table(*profiles)
    if json:
        output.write_document("profile-difference", record)
    else:
        output.show(table)


@app.command("list")
def list_profiles(json: options.JsonOption = False) -> None:
    """All saved profiles: name, model, age, size, samples, source.

    Example: prefixkv profile list
    """
    rows = readable(names("profiles"), _summary)
    if json:
        output.write_document("profiles", {"profiles": rows})
    elif not rows:
        output.notice("no profile is saved: make one with `prefixkv profile --model MODEL`; the demo's own is bundled")
    else:
        show_saved_files(rows, {"samples": lambda row: count(row["samples"], "sample"), "source": itemgetter("source")})


@app.command()
def show(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="Name or file of a profile.")],
    report: options.ReportOption = None,
    json: options.JsonOption = False,
) -> None:
    """How concentrated every layer's importance is.

    Example: prefixkv profile show demo --report demo.html
    """
    check_report(report)
    measured = LayerProfile.load(profile)
    if report is not None:
        _write_report(measured, report)
    if json:
        output.write_json(measured.as_dict())
    else:
        output.show(profile_table(measured))


@app.command()
def remove(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a profile.")]) -> None:
    """Remove a saved profile.

    Example: prefixkv profile remove llava-hf--llava-1.5-7b-hf
    """
    remove_saved("profiles", "profile", name)


def _write_report(measured: LayerProfile, path: Path) -> None:
    from prefixkv_cli.reports.profile_page import write_profile

    write_profile(measured, path)
    output.notice(f"wrote {path}")


def _summary(name: str) -> dict[str, Any]:
    path = named_file("profiles", name)
    profile = LayerProfile.load(path)
    return saved_row(path, name, profile.model.id, samples=len(profile.samples), source=profile.source)


def measure_to(
    path: Path,
    model: str,
    samples: list[Sample] | None = None,
    source: str = "",
    device: str = "auto",
    dtype: str = "auto",
    placement: Placement | None = None,
    launch: Launch | None = None,
) -> LayerProfile:
    """Measure a profile with a progress bar and save it.

    Args:
        path: where.
        model: name of the model.
        samples: what to run; ten drawn scenes where None.
        source: what they are, in words.
        device: as for `load_model`.
        dtype: as for `load_model`.
        placement: as for `load_model`.
        launch: the processes that share the samples, of which the first saves; this one alone where None.
    """
    if samples is None:
        samples, source = _samples(None, None, None, None, None, output.notice)
    is_main = launch is None or launch.is_main
    notify = output.notice if is_main else _silent
    placed = launch.device if launch and (placement is None or placement.device_map is None) else device
    loaded = load_shown(model, placed, dtype, notify, placement, is_main)
    with progress_bar("measuring", total=len(samples), shown=is_main) as update:
        measured = LayerProfile.measure(
            loaded,
            samples,
            source,
            progress=lambda done: update(completed=done),
            notify=notify,
            launch=launch,
        )
    if is_main:
        measured.save(path)
        output.notice(f"saved {path}")
    return measured


def _silent(text: str) -> None:
    pass


def _samples(
    images: Path | None, data: str | None, prompts: Path | None, count: int | None, seed: int | None, notify: Notify
) -> tuple[list[Sample], str]:
    """The samples and where they come from; `--data` is read as `eval` reads it."""
    from prefixkv.evaluation.data import DataSource
    from prefixkv.profiles import calibration

    if data is not None:
        limit = count if count is not None or data.startswith(("scenes:", "documents:")) else DEFAULT_SAMPLES
        source = DataSource.parse(data, limit, images)
        if source.kind in ("followups", "needle", "pictures"):
            raise OptionError(f"data {source.kind!r} is for eval: measure on scenes[:N[:SEED]] or documents[:N[:SEED]]")
        if source.kind == "scenes":
            assert source.count is not None
            return _drawn(source.count, source.seed)
        if source.kind == "documents":
            assert source.count is not None
            last = source.seed + source.count - 1
            return calibration.document_samples(source.count, source.seed), f"drawn documents {source.seed} to {last}"
        assert source.path is not None
        wanted = limit or DEFAULT_SAMPLES
        if source.kind == "text":
            return calibration.text_samples(source.path, wanted), f"pieces of {source.path.name}"
        return calibration.data_samples(source.path, wanted, images), source.path.name
    wanted = count or DEFAULT_SAMPLES
    if images is not None:
        texts = calibration.read_prompts(prompts) if prompts else [calibration.DEFAULT_PROMPT]
        return calibration.folder_samples(images, wanted, texts), f"pictures of {images.name}"
    notify("no --images and no --data: the samples are drawn scenes of coloured shapes")
    return _drawn(wanted, seed or 0)


def _drawn(count: int, seed: int) -> tuple[list[Sample], str]:
    from prefixkv.profiles import calibration

    return calibration.drawn_samples(count, seed), f"drawn scenes {seed} to {seed + count - 1}"
