"""Values that typer need not convert: for that it loads pydantic, which takes longer than all else a client loads."""

from __future__ import annotations

from functools import partial
from typing import Any

_UNCHANGED = (str, int, float, bool)


def spare_conversion(parameter: Any) -> None:
    """Let a parameter of typer's take a value that already is one of its type as it is, and have others converted.

    Args:
        parameter: an option or argument.
    """
    converting = partial(type(parameter).get_runtime_param, parameter)
    parameter.get_runtime_param = lambda: _Sparing(converting)


class _Sparing:
    """Stands for typer's `RuntimeParam`, which is made when a value needs it."""

    def __init__(self, converting: Any) -> None:
        self._converting = converting

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value that the command is given."""
        descriptor = param.type_descriptor
        annotation, limits = descriptor.annotation, descriptor.parameter_info
        is_free = limits.parser is None and limits.min is None and limits.max is None
        if is_free and annotation in _UNCHANGED and type(value) is annotation:
            return value
        is_list = is_free and annotation == list[str] and isinstance(value, (list, tuple))
        if is_list and all(type(word) is str for word in value):
            return list(value)
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        return self._converting().coerce(value, param=param, ctx=ctx)
