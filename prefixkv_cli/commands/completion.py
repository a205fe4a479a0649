"""`prefixkv completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.completion import get_completion_script

from prefixkv.errors import OptionError
from prefixkv_cli import output
from prefixkv_cli.command_table import COMPLETE_VARIABLE

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help=f"One of {', '.join(SHELLS)}.")],
) -> None:
    """Print the script that makes a shell complete commands, options, methods and saved names.

    Example: prefixkv completion bash >> ~/.bashrc

    Example: prefixkv completion fish > ~/.config/fish/completions/prefixkv.fish
    """
    if shell not in SHELLS:
        raise OptionError(f"shell {shell!r} is not known: choose one of {', '.join(SHELLS)}")
    script = get_completion_script(prog_name="prefixkv", complete_var=COMPLETE_VARIABLE, shell=shell)
    output.write_text(script.strip() + "\n")
