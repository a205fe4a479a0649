"""`/set`: how the next answers are drawn, changed while the conversation goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prefixkv.errors import OptionError
from prefixkv.generation.sampling import Sampling

SETTINGS: dict[str, Callable[[str], float]] = {
    "temperature": float,
    "top-p": float,
    "top-k": int,
    "max-new-tokens": int,
    "seed": int,
}
"""Names as the command line's options have them, and what reads a value."""
SETTING_HELP = {
    "temperature": "0 takes the likeliest token; higher varies more",
    "top-p": "draw from the likeliest tokens that reach this probability together",
    "top-k": "draw from so many of the likeliest tokens; 0: from all",
    "max-new-tokens": "longest answer, in tokens",
    "seed": "makes drawing repeatable",
}


def changed(sampling: Sampling, text: str) -> Sampling:
    """The same sampling with one value replaced.

    Args:
        sampling: as it is.
        text: a name of `SETTINGS` and a value, such as `temperature 0.7`.

    Raises:
        OptionError: the name is not known, or the value is missing, no number, or outside what is allowed.
    """
    name, *values = text.split()
    if name not in SETTINGS:
        raise OptionError(f"setting {name!r} is not known: choose one of {', '.join(SETTINGS)}")
    if len(values) != 1:
        raise OptionError(f"{name} takes one value: write it as in `/set {name} {_value(sampling, name) or 0}`")
    try:
        value = SETTINGS[name](values[0])
    except ValueError:
        kind = "a whole number" if SETTINGS[name] is int else "a number"
        raise OptionError(f"{name} {values[0]!r} is not {kind}") from None
    given: dict[str, Any] = {_field(name): value}
    return replace(sampling, **given)


def described(sampling: Sampling) -> str:
    """All values in one line; a seed that is not set is called random."""
    values = ((name, _value(sampling, name)) for name in SETTINGS)
    return " · ".join(f"{name} {'random' if value is None else value}" for name, value in values)


def _value(sampling: Sampling, name: str) -> float | None:
    value: float | None = getattr(sampling, _field(name))
    return value


def _field(name: str) -> str:
    return name.replace("-", "_")
