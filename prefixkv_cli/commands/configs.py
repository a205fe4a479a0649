"""`prefixkv configs`: the configurations that were saved."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from prefixkv.documents import write_json
from prefixkv.home import find_file, named_file, names
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import check_model_name, read_identity
from prefixkv.models.names import full_name
from prefixkv.models.shapes import SHAPES
from prefixkv.profiles.config import PrefixConfig
from prefixkv_cli import options, output
from prefixkv_cli.help_panels import PanelledTyper
from prefixkv_cli.saved_files import remove_saved
from prefixkv_cli.tables.config_table import config_table
from prefixkv_cli.tables.saved_table import readable, saved_row, show_saved_files

app = PanelledTyper(
    help="List, show, import, export and remove saved configurations.\n\nExample: prefixkv configs list",
    no_args_is_help=True,
)

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="Name or file of a configuration.")]


@app.command("list")
def list_configs(json: options.JsonOption = False) -> None:
    """All saved configurations: name, model, age, size, method, codec, budget, source.

    Example: prefixkv configs list
    """
    rows = readable(names("configs"), _summary)
    if json:
        output.write_document("configs", {"configs": rows})
    elif not rows:
        output.notice("no configuration is saved: make one with `prefixkv search --budget 20% --name NAME`")
    else:
        show_saved_files(rows, {field: itemgetter(field) for field in ("method", "codec", "budget", "source")})


@app.command()
def show(config: ConfigArgument, json: options.JsonOption = False) -> None:
    """What every layer keeps.

    Example: prefixkv configs show fifth
    """
    loaded = PrefixConfig.load(find_file("configs", config))
    if json:
        output.write_json(loaded.as_dict())
    else:
        output.show(config_table(loaded))


@app.command()
def path(config: ConfigArgument) -> None:
    """The file of a configuration.

    Example: prefixkv configs path fifth
    """
    output.write_text(f"{find_file('configs', config)}\n")


@app.command("import")
def import_release(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="confs/prefixkv_*.json of the paper's release.")],
    model: options.ModelOption,
    name: Annotated[str | None, typer.Option("--name", help="Save it under this name; else the file's.")] = None,
    context: Annotated[int, typer.Option("--context-tokens", "--context", help="Tokens for the table.")] = 1024,
) -> None:
    """Import a list of forgotten fractions, one a layer, of the paper's release.

    Example: prefixkv configs import confs/prefixkv_7b_0.5.json --model llava
    """
    check_model_name(model)
    wanted = full_name(model)
    shape = SHAPES.get(wanted)
    identity = ModelIdentity(wanted, None, shape.geometry, None) if shape else read_identity(model)
    chosen = name or file.stem
    target = named_file("configs", chosen)
    PrefixConfig.from_release(file, identity, chosen, context).save(target)
    output.notice(f"saved {target}")


@app.command()
def export(
    config: ConfigArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    release: Annotated[bool, typer.Option("--release", help="As the paper's release: forgotten fractions.")] = False,
) -> None:
    """Write a configuration to a file.

    Example: prefixkv configs export fifth fifth.json
    """
    loaded = PrefixConfig.load(find_file("configs", config))
    write_json(out, loaded.to_release() if release else loaded.as_dict())
    output.notice(f"wrote {out}")


@app.command()
def remove(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a configuration.")]) -> None:
    """Remove a saved configuration.

    Example: prefixkv configs remove fifth
    """
    remove_saved("configs", "config", name)


def _summary(name: str) -> dict[str, Any]:
    path = named_file("configs", name)
    config = PrefixConfig.load(path)
    return saved_row(
        path,
        name,
        config.model.id,
        method=config.method,
        codec=config.codec,
        budget=str(config.budget["requested"]),
        source=config.profile["source"] if config.profile else config.allocation,
    )
