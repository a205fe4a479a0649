"""Options that commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from prefixkv.errors import OptionError
from prefixkv.home import names
from prefixkv.methods.table import METHODS, method_names
from prefixkv.models.geometry import DTYPE_BYTES
from prefixkv.models.names import ALIASES
from prefixkv.models.placement import Placement
from prefixkv.policy.codec import CODECS
from prefixkv.policy.memory_sizes import parse_sizes
from prefixkv_cli.dialogue.picture_input import SOURCES_HELP
from prefixkv_cli.output import be_quiet


def starting_with(choices: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell is offered for a word that has been begun.

    Args:
        choices: lists all words there are, when it is asked.
    """

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices() if choice.startswith(incomplete)]

    return complete


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="auto (demo for drawn pictures, else a real model that fits), demo (bundled, knows drawn pictures only), "
        "llava (LLaVA 1.5 7B), a Hugging Face id, or a folder.",
        autocompletion=starting_with(lambda: ("auto", "demo", *ALIASES)),
    ),
]
ImageOption = Annotated[
    list[str] | None,
    typer.Option("--image", "-i", metavar="IMAGE", help=f"A picture: {SOURCES_HELP}. May be repeated."),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="NAME",
        help="Name or file of a configuration, instead of budget, method and codec.",
        autocompletion=starting_with(lambda: names("configs")),
    ),
]
SystemOption = Annotated[str, typer.Option("--system", metavar="TEXT", help="Instructions before the first turn.")]
BudgetOption = Annotated[
    str,
    typer.Option(
        "--budget",
        help="What the cache may keep: a share (20%, 0.2), a size (512MiB, 4GB) or tokens (300tok).",
        autocompletion=starting_with(lambda: BUDGETS),
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        help=f"How entries are chosen: {', '.join(METHODS)}.",
        metavar="NAME",
        autocompletion=starting_with(method_names),
    ),
]
NoProfileOption = Annotated[
    bool, typer.Option("--no-profile", help="Do without the model's profile, the bundled one of the demo too.")
]
CodecOption = Annotated[
    str,
    typer.Option(
        "--codec",
        help=f"In which precision entries are stored, with any method: {', '.join(CODECS)}.",
        metavar="NAME",
        autocompletion=starting_with(lambda: CODECS),
    ),
]
MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")]
TemperatureOption = Annotated[
    float,
    typer.Option("--temperature", help="0 takes the likeliest token; higher varies more."),
]
TopPOption = Annotated[
    float,
    typer.Option("--top-p", help="Draw from the likeliest tokens that reach this probability together."),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="Makes drawing repeatable.", show_default="a new one"),
]
StopOption = Annotated[
    list[str] | None,
    # A text may hold white space, at which an environment variable would be split.
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="End an answer before this text. May be repeated.",
        allow_from_autoenv=False,
    ),
]
TemplateArgOption = Annotated[
    list[str] | None,
    # As with --stop: a value may hold white space.
    typer.Option(
        "--template-arg",
        metavar="TEXT",
        help="NAME=VALUE for the model's chat template, such as thinking=false. May be repeated.",
        allow_from_autoenv=False,
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        metavar="N",
        help="Scale a picture with more pixels down to so many.",
        show_default="no limit",
    ),
]
KeepMarksOption = Annotated[
    bool,
    typer.Option(
        "--keep-marks",
        help="Keep special tokens, such as marks of boxes, in the answers.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda, cuda:N or mps.",
        autocompletion=starting_with(lambda: ("auto", "cpu", "cuda", "mps")),
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help=f"auto, {', '.join(DTYPE_BYTES)}.",
        autocompletion=starting_with(lambda: ("auto", *DTYPE_BYTES)),
    ),
]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="MAP",
        help="Spread a model over several devices: auto, balanced, balanced_low_0 or sequential.",
    ),
]
EightBitOption = Annotated[bool, typer.Option("--load-in-8bit", help="Weights in 8 bits (bitsandbytes).")]
FourBitOption = Annotated[bool, typer.Option("--load-in-4bit", help="Weights in 4 bits (bitsandbytes).")]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Folder of a data file's pictures.",
        show_default="beside the file",
    ),
]
TrustOption = Annotated[
    bool,
    # No environment variable: whoever lets foreign code run says so each time.
    typer.Option(
        "--trust-remote-code",
        help="Let Python that comes with the model's files run.",
        allow_from_autoenv=False,
    ),
]
LogOption = Annotated[
    bool,
    typer.Option(
        "--log/--no-log", help="Keep questions and answers for `prefixkv log`, pictures by path and hash only."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write an interactive page, to a .html file."),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No notices, progress or tables; errors stay.", callback=be_quiet),
]

DEFAULT_BUDGET = "20%"
BUDGETS = ("100%", "50%", "20%", "10%", "5%", "512MiB", "4GB", "300tok")
"""What a shell offers for a budget: one of each kind, and the usual shares."""
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path | None) -> None:
    """Refuse a file that cannot be drawn to.

    Raises:
        OptionError: its name ends in nothing of `PLOT_SUFFIXES`.
    """
    if path is not None and path.suffix.lower() not in PLOT_SUFFIXES:
        raise OptionError(f"plot {str(path)!r} is no picture that can be drawn: end it in {', '.join(PLOT_SUFFIXES)}")


def placement(
    device: str, device_map: str | None, in_8bit: bool, in_4bit: bool, trust_remote_code: bool = False
) -> Placement:
    """How the weights are laid out, and whether code that comes with them may run, checked.

    Raises:
        OptionError: two options that exclude each other.
        PrefixKVError: a library is not installed.
    """
    if in_8bit and in_4bit:
        raise OptionError("give either --load-in-8bit or --load-in-4bit")
    chosen = Placement(device_map, 8 if in_8bit else 4 if in_4bit else None, trust_remote_code)
    chosen.check(device)
    return chosen


def memory_sizes(memory: str | None, device_map: str | None) -> tuple[int, ...] | None:
    """The sizes of `--memory` in bytes: one for all caches together, or one for each GPU; None where it is not given.

    Raises:
        OptionError: a part is no size, or there are several and the model is to be on one device.
    """
    sizes = None if memory is None else parse_sizes(memory)
    if sizes is not None and len(sizes) > 1 and device_map is None:
        raise OptionError(
            f"memory {memory!r} has {len(sizes)} limits, one for each device, and without --device-map the model is on "
            "one: give one size"
        )
    return sizes


def on_command_line(invocation: typer.Context) -> set[str]:
    """Names of the options that the command line gives; those of environment variables and defaults are not among them.

    Args:
        invocation: of the command.
    """
    sources = {name: invocation.get_parameter_source(name) for name in invocation.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
