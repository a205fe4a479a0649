"""`prefixkv info`: a model's cache, pictures and size, without loading it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from prefixkv.errors import OptionError
from prefixkv.models.loading import check_model_name
from prefixkv.policy.budget import format_bytes
from prefixkv_cli import options, output

if TYPE_CHECKING:
    from prefixkv.models.facts import ModelFacts


def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="demo, an alias, a Hugging Face id, or a folder.")],
    picture: Annotated[
        list[str] | None,
        typer.Option(
            "--picture",
            metavar="WxH",
            help="A picture's size in pixels. May be repeated. "
            "Where only the model's processor knows how many tokens it takes, the processor is loaded.",
        ),
    ] = None,
    json: options.JsonOption = False,
    trust_remote_code: options.TrustOption = False,
) -> None:
    """Say what a model's cache takes for every token and picture, and how large its weights are; loads no weights.

    Example: prefixkv info qwen2-vl --picture 1024x768
    """
    sizes = [_size(text) for text in picture or []]
    check_model_name(model)
    from prefixkv.models.facts import model_facts

    facts = model_facts("demo" if model == "auto" else model, sizes, output.notice, trust_remote_code)
    if json:
        output.write_document("model", facts.as_dict())
    else:
        output.stdout_console().print(_table(facts))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or not int(match[1]) * int(match[2]):
        raise OptionError(f"picture {text!r} is no size: give width and height in pixels, such as 640x480")
    return int(match[1]), int(match[2])


def _table(facts: ModelFacts) -> Table:
    geometry = facts.geometry
    table = Table(show_header=False, title=facts.identity.id, title_justify="left")
    if facts.family is not None:
        table.add_row("family", facts.family.name + (f" ({facts.family.special})" if facts.family.special else ""))
    elif facts.model_type is not None:
        table.add_row("family", f"{facts.model_type}, which the tests do not run")
    heads = f" for {facts.query_heads} query heads" if facts.query_heads else ""
    table.add_row("compressed layers", f"{geometry.layers}")
    if geometry.window_layers:
        held = f"at most {format_bytes(geometry.window_bytes)} in all, beside a share and within a limit in bytes"
        kind = "chunk layers" if geometry.has_chunks else "window layers"
        table.add_row(kind, f"{len(geometry.window_layers)} of {geometry.window_tokens} tokens: {held}")
    if geometry.state_layers:
        size = "of a size not known before it runs"
        if geometry.state_bytes is not None:
            size = f"{format_bytes(geometry.state_bytes)} in all, beside a share and within a limit in bytes"
        table.add_row("state layers", f"{len(geometry.state_layers)}, left alone: {size}")
    if geometry.bare_layers:
        table.add_row("layers without entries", f"{len(geometry.bare_layers)}, which read another layer's or have none")
    numbers = f"{geometry.head_dim} numbers each"
    if geometry.value_dim is not None:
        numbers = f"{geometry.head_dim} numbers in a key and {geometry.value_dim} in a value"
    table.add_row("kv heads", f"{geometry.kv_heads}{heads}, {numbers}, {geometry.dtype}")
    table.add_row("bytes per token", f"{geometry.token_bytes:,} ({format_bytes(geometry.token_bytes)})")
    for (width, height), count in facts.picture_tokens.items():
        size = format_bytes(count * geometry.token_bytes)
        table.add_row(f"picture {width}x{height}", f"{count:,} tokens, {size} of cache")
    if facts.context_tokens is not None:
        size = format_bytes(facts.context_tokens * geometry.token_bytes)
        table.add_row("longest context", f"{facts.context_tokens:,} tokens, {size} of cache")
    if facts.weight_bytes is not None:
        table.add_row("weights", format_bytes(facts.weight_bytes))
    return table
