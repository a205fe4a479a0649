"""`prefixkv models`: which models can be used."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from prefixkv.models.families import FAMILIES
from prefixkv.models.loading import weights_are_here
from prefixkv.models.refused_types import REFUSED_TYPES
from prefixkv.models.type_results import type_results
from prefixkv_cli import options, output

WIDTH = 180
"""Columns of the table where it goes to no terminal, so that every model is one line."""
FITS = 80
"""In so many columns an alias and an id are whole."""


def models(
    json: options.JsonOption = False,
    all_types: Annotated[
        bool,
        typer.Option("--all", help="Every type of transformers that was tried as a small random model: does it run?"),
    ] = False,
) -> None:
    """List the families that work, with an alias for one model of each, and those that cannot work.

    Any model of such a family can be given to --model, by its Hugging Face id or as a folder.

    Example: prefixkv models --json
    """
    known: list[dict[str, Any]] = [
        {
            "alias": family.alias,
            "family": family.name,
            "model_types": list(family.model_types),
            "example": family.example,
            "special": family.special,
            "here": weights_are_here(family.example),
        }
        for family in FAMILIES
    ]
    if json:
        content: dict[str, Any] = {"families": known, "refused": REFUSED_TYPES}
        if all_types:
            version, types = type_results()
            listed = {name: asdict(found) for name, found in types.items()}
            content["tested"] = {"transformers": version, "types": listed}
        output.write_document("models", content)
        return
    if all_types:
        _show_types()
        return
    console = output.stdout_console()
    if not console.is_terminal:
        console.width = WIDTH
    # An id is there to be copied: where it fits, other columns are broken before it is, and nothing is ever cut.
    whole = ("--model", "stands for") if console.width >= FITS else ()
    table = Table(title="Models", title_justify="left", box=None, pad_edge=False)
    for heading in ("--model", "family", "stands for", "special", "here"):
        table.add_column(heading, overflow="fold", no_wrap=heading in whole)
    table.add_row("demo", "LLaVA-1.5", "the bundled model", "knows drawn pictures only", "yes")
    for row in known:
        table.add_row(row["alias"], row["family"], row["example"], row["special"], "yes" if row["here"] else "")
    console.print(table)
    console.print("here: the weights are on this machine.", markup=False)
    for reason in dict.fromkeys(REFUSED_TYPES.values()):
        names = ", ".join(name for name, why in REFUSED_TYPES.items() if why == reason)
        console.print(f"Refused: {names}: {reason}.", markup=False)


def _show_types() -> None:
    """Print what every type did."""
    version, types = type_results()
    console = output.stdout_console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(f"Types of transformers {version}", markup=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("type", "reads", "", "why"):
        table.add_column(heading, overflow="fold")
    for name, found in types.items():
        table.add_row(name, "pictures, text" if found.pictures else "text", found.outcome, escape(found.reason))
    console.print(table)
    runs = sum(found.outcome == "runs" for found in types.values())
    stock = sum(found.outcome != "stock fails" for found in types.values())
    console.print(f"{runs} of {stock} types run that transformers itself runs in the same test.", markup=False)
