"""`prefixkv settings`: defaults of options that hold until they are changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from prefixkv.models.config_file import CONFIG
from prefixkv.models.names import ALIASES
from prefixkv_cli import options, output
from prefixkv_cli.help_panels import PanelledTyper
from prefixkv_cli.settings.file import read_settings, set_setting, settings_file, unset_setting
from prefixkv_cli.settings.names import SETTINGS
from prefixkv_cli.settings.variables import BESIDE_OPTIONS, PREFIX, option_name, variable_of
from prefixkv_cli.tables.saved_table import show_saved

app = PanelledTyper(
    help="Show, set and unset defaults of options, kept in a file.\n\nThe command line wins over an environment "
    "variable, this over the file, and this over the program's own default.\n\nExample: prefixkv settings set budget "
    "10%",
    no_args_is_help=True,
)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Long name of an option, such as model or max-new-tokens.",
        autocompletion=options.starting_with(lambda: SETTINGS),
    ),
]


@app.command()
def show(invocation: typer.Context, json: options.JsonOption = False) -> None:
    """Every setting: its value, and whether that is from a variable, the file, or the default.

    Example: prefixkv settings show
    """
    root: Any = invocation.find_root().command
    rows = effective_settings(root)
    if json:
        output.write_document("effective-settings", {"path": str(settings_file()), "settings": rows})
    else:
        columns = {field: lambda row, field=field: _text(row[field]) for field in ("name", "value", "source")}
        show_saved(rows, columns)
    for variable in _unread_variables(root):
        output.notice(f"{variable} is set, and no option reads it: see docs/cli.md for the names")


@app.command("set")
def set_value(
    name: NameArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As the option takes it; true or false for a flag.")],
) -> None:
    """Set a default.

    Example: prefixkv settings set model llava
    """
    if name == "model" and value not in (*ALIASES, "auto", "demo") and (Path(value) / CONFIG).is_file():
        value = str(Path(value).resolve())  # the setting holds in every folder
    set_setting(name, value)
    output.notice(f"{name} is {value} from now on ({settings_file()})")
    if os.environ.get(variable_of(name)):
        output.notice(f"{variable_of(name)} is set, too, and wins: {os.environ[variable_of(name)]}")


@app.command()
def unset(name: NameArgument) -> None:
    """Take a default out of the file.

    Example: prefixkv settings unset model
    """
    if unset_setting(name):
        output.notice(f"{name} has the program's own default again")
    else:
        output.notice(f"{name} was not set in {settings_file()}")


@app.command()
def path() -> None:
    """The settings file, whether or not it is there.

    Example: prefixkv settings path
    """
    output.write_text(f"{settings_file()}\n")


def effective_settings(root: Any) -> list[dict[str, Any]]:
    """Every setting as a command without that option would take it.

    Args:
        root: the program's command, whose `chat` has every setting as an option.

    Returns:
        `name`, `value` and `source` of each: `variable NAME`, `file`, or `default`.

    Raises:
        PrefixKVError: the file is not valid.
    """
    in_file = read_settings()
    defaults = {option_name(each): each.default for each in root.commands["chat"].params if each.envvar is not None}
    rows = []
    for name in SETTINGS:
        variable = variable_of(name)
        if os.environ.get(variable):
            value, source = os.environ[variable], f"variable {variable}"
        elif name in in_file:
            value, source = in_file[name], "file"
        else:
            value, source = defaults[name], "default"
        rows.append({"name": name, "value": value, "source": source})
    return rows


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _unread_variables(root: Any) -> list[str]:
    read = {*BESIDE_OPTIONS, *_variables(root)}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in read)


def _variables(command: Any) -> Iterator[str]:
    """Variables of a command and of all below it."""
    yield from (parameter.envvar for parameter in command.params if parameter.envvar is not None)
    for inner in getattr(command, "commands", {}).values():
        yield from _variables(inner)
