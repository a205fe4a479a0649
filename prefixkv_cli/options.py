"""Options that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from prefixkv.geometry import DTYPE_BYTES
from prefixkv.methods import METHODS

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="auto (LLaVA where it can run, else demo), demo (bundled, knows drawn shapes only), "
        "llava (LLaVA 1.5 7B), a Hugging Face id, or a folder.",
    ),
]
BudgetOption = Annotated[
    str,
    typer.Option(
        "--budget", help="What the cache may keep: a share (20%, 0.2), a size (512MiB, 4GB) or tokens (300tok)."
    ),
]
MethodOption = Annotated[
    str, typer.Option("--method", help=f"How entries are chosen: {', '.join(METHODS)}.", metavar="NAME")
]
MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", help="0 takes the likeliest token; higher varies more.")
]
TopPOption = Annotated[
    float, typer.Option("--top-p", help="Draw from the likeliest tokens that reach this probability together.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Makes drawing repeatable.", show_default="a new one")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help=f"auto, {', '.join(DTYPE_BYTES)}.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

DEFAULT_BUDGET = "20%"
