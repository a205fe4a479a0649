"""Environment variables of options: one for each name, the same for every command that has the option."""

from __future__ import annotations

from typing import Any

PREFIX = "PREFIXKV_"
BESIDE_OPTIONS = ("PREFIXKV_HOME", "PREFIXKV_API_KEY", "PREFIXKV_CAPTURE", "PREFIXKV_GPU_RESULTS")
"""Variables that are read and belong to no option."""


def option_name(parameter: Any) -> str:
    """The long name of an option without its dashes, `max-new-tokens`; of several, the first."""
    return next(name for name in parameter.opts if name.startswith("--")).removeprefix("--")


def variable_of(name: str) -> str:
    """`max-new-tokens` to `PREFIXKV_MAX_NEW_TOKENS`."""
    return PREFIX + name.replace("-", "_").upper()


def give_variable(parameter: Any) -> None:
    """Have an option read its variable, unless it has said that it reads none or another one.

    Args:
        parameter: of a command; an argument, and an option that is read before all others, have none.
    """
    if parameter.param_type_name != "option" or parameter.is_eager:
        return
    if parameter.allow_from_autoenv and parameter.envvar is None:
        parameter.envvar = variable_of(option_name(parameter))
