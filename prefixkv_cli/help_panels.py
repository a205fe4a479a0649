"""Commands as all of ours are: help in panels, values by short names, defaults from variables and the settings file."""

from __future__ import annotations

import textwrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from prefixkv_cli.option_values import spare_conversion
from prefixkv_cli.settings.defaults import FileDefaults
from prefixkv_cli.settings.variables import give_variable

COMMON = "Common"
PANELS = {
    COMMON: (),
    "Sampling": ("--max-new-tokens", "--temperature", "--top-p", "--seed", "--stop"),
    "Hardware": (
        *("--device", "--device-map", "--dtype", "--load-in-8bit", "--load-in-4bit", "--processes", "--rows"),
        *("--memory", "--device-memory", "--side-by-side", "--rows-at-once", "--own-process"),
    ),
    "Output": (
        *("--out", "--overwrite", "--name", "--json", "--json-lines", "--stats", "--show-kept", "--plain", "--plot"),
        *("--report", "--log", "--keep-marks", "--markdown", "--csv", "--intervals", "--by-kind", "--trace"),
        *("--release", "--quiet", "--debug", "--version", "--help"),
    ),
}
"""The panels in their order, each with its options; what no other names is common."""
_VALUES = {"<str>": "TEXT", "<int>": "N", "<float>": "X", "<path>": "FILE"}
"""What stands for a value whose option has no word of its own for it, by what typer would show."""
_COMPLETION_COLUMNS = 72
"""Of what a shell shows beside a completion; in a second line, some shells would see another completion."""


def panel_of(parameter: Any) -> str | None:
    """The panel of an option; None for an argument, which has one of its own."""
    if parameter.param_type_name != "option":
        return None
    return next((panel for panel, names in PANELS.items() if set(names) & set(parameter.opts)), COMMON)


class _Panelled:
    """Mixed into typer's classes: lays out the parameters of a command or group, and says where their defaults are."""

    params: list[Any]

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for parameter in self.params:
            give_variable(parameter)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the words of this command; a shell that asks for completions needs no defaults."""
        if not extra.get("resilient_parsing"):
            extra.setdefault("default_map", FileDefaults(self.params))
        return super().make_context(info_name, args, parent, **extra)  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, arguments first, then options panel by panel."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            _lay_out(parameter, ctx)
            spare_conversion(parameter)
            if ctx.resilient_parsing:
                # A shell asks for completions. To make values of words typer would load pydantic.
                parameter.process_value = _as_it_is
        order = [None, *PANELS]
        return sorted(parameters, key=lambda parameter: order.index(panel_of(parameter)))

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What a word may become, for a shell, each with the beginning of its help."""
        found = super().shell_complete(ctx, incomplete)  # type: ignore[misc]
        for item in found:
            if item.help:
                sentence = item.help.partition(". ")[0].removesuffix(".")
                item.help = textwrap.shorten(sentence, _COMPLETION_COLUMNS, placeholder=" ...")
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help.

        Of a long name and its earlier form, which is still taken, only the first is shown. That an option is required
        is said in its text: a star in a column of its own would leave too little room where the screen is narrow.
        Defaults are the program's own, whatever the settings file has.
        """
        ctx.default_map = None
        for parameter in self.get_params(ctx):
            long = [name for name in parameter.opts if name.startswith("--")]
            parameter.opts = [name for name in parameter.opts if name not in long[1:]]
            if parameter.param_type_name == "option" and parameter.required:
                parameter.required, parameter.help = False, f"{parameter.help} Required."
            if isinstance(parameter.show_default, str):
                # Typer would put words in parentheses; Rich would take a bracket for markup.
                words = rf"\[default: {parameter.show_default}]"
                parameter.show_default, parameter.help = False, f"{parameter.help} {words}"
        super().format_help(ctx, formatter)  # type: ignore[misc]


class PanelledCommand(_Panelled, TyperCommand):
    """A command whose help is in panels."""


class PanelledGroup(_Panelled, TyperGroup):
    """A group of commands whose help is in panels."""


class PanelledTyper(typer.Typer):
    """An app all of whose commands have their help in panels."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"cls": PanelledGroup, **settings})

    def command(self, name: str | None = None, **settings: Any) -> Any:
        """Register a command, as `typer.Typer.command` does."""
        return super().command(name, **{"cls": PanelledCommand, **settings})

    def callback(self, **settings: Any) -> Any:
        """Register what runs before every command, as `typer.Typer.callback` does."""
        return super().callback(**{"cls": PanelledGroup, **settings})


def _lay_out(parameter: Any, ctx: Any) -> None:
    parameter.show_envvar = False
    parameter.rich_help_panel = panel_of(parameter)
    if parameter.param_type_name == "argument":
        # Its name and help say what it is; typer would add a type such as <list[str]>.
        parameter.display_type_rich = _no_type
    elif parameter.metavar is None:
        parameter.metavar = "" if parameter.is_flag else _VALUES[parameter.display_type(ctx)]


def _as_it_is(ctx: Any, value: Any) -> Any:
    return value


def _no_type(ctx: Any) -> str:
    return ""
