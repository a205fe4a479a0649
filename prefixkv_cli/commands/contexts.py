"""`prefixkv contexts`: the contexts that were saved."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from prefixkv.chat.context_file import read_head
from prefixkv.home import find_file, named_file, names
from prefixkv.policy.budget import format_bytes
from prefixkv.policy.codec import DEFAULT_CODEC
from prefixkv_cli import options, output
from prefixkv_cli.help_panels import PanelledTyper
from prefixkv_cli.saved_files import remove_saved
from prefixkv_cli.tables.saved_table import count, readable, saved_row, show_saved_files

app = PanelledTyper(
    help="List, show and remove saved contexts.\n\nExample: prefixkv contexts list", no_args_is_help=True
)

ContextArgument = Annotated[str, typer.Argument(metavar="CONTEXT", help="Name or file of a context.")]


@app.command("list")
def list_contexts(json: options.JsonOption = False) -> None:
    """All saved contexts: name, model, age, size, method, codec, budget, turns, pictures.

    Example: prefixkv contexts list
    """
    rows = readable(names("contexts"), lambda name: _summary(name, named_file("contexts", name)))
    if json:
        output.write_document("contexts", {"contexts": rows})
    elif not rows:
        output.notice("no context is saved: make one with `prefixkv save photo.jpg --name photo`")
    else:
        show_saved_files(
            rows,
            {
                **{field: itemgetter(field) for field in ("method", "codec", "budget")},
                "turns": lambda row: count(row["turns"], "turn"),
                "pictures": lambda row: count(row["pictures"], "picture"),
            },
        )


@app.command()
def show(context: ContextArgument, json: options.JsonOption = False) -> None:
    """What a context holds; says whether its file is whole.

    Example: prefixkv contexts show desk
    """
    from prefixkv.chat.context_layout import read_whole

    path = find_file("contexts", context)
    head, _ = read_whole(path)
    if json:
        output.write_json({**head, "path": str(path), "file_bytes": path.stat().st_size})
        return
    model = head["model"]
    lines = [
        f"context {head['name']}: {path} ({format_bytes(path.stat().st_size)}, unchanged since it was saved)",
        f"model {model['id']} ({model['dtype']}), method {head['method']}, codec {head.get('codec', DEFAULT_CODEC)}, "
        f"budget {head['budget']['text']}: "
        f"{format_bytes(head['kept_bytes'])} of {format_bytes(head['full_bytes'])} kept",
    ]
    if head["system"]:
        lines.append(f"system: {head['system']}")
    for picture in head["pictures"]:
        size = f"{picture['width']} x {picture['height']}"
        lines.append(f"picture {picture['name']} ({size}, sha256 {picture['sha256'][:16]})")
    for turn in head["turns"]:
        lines += [f"> {turn['question']}", turn["answer"]["text"]]
    output.write_text("\n".join(lines) + "\n")


@app.command()
def remove(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a context.")]) -> None:
    """Remove a saved context.

    Example: prefixkv contexts remove desk
    """
    remove_saved("contexts", "context", name)


def _summary(name: str, path: Path) -> dict[str, Any]:
    head = read_head(path)
    return saved_row(
        path,
        name,
        head["model"]["id"],
        method=head["method"],
        codec=head.get("codec", DEFAULT_CODEC),
        budget=head["budget"]["text"],
        turns=len(head["turns"]),
        pictures=len(head["pictures"]),
        kept_bytes=head["kept_bytes"],
        full_bytes=head["full_bytes"],
    )
