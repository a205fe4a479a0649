"""The settings file as the command line's parser sees it: defaults, asked for where nothing else gives a value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefixkv_cli.settings.file import read_settings
from prefixkv_cli.settings.names import SETTINGS
from prefixkv_cli.settings.variables import option_name


class FileDefaults(dict[str, Any]):
    """Defaults of a command's options by their parameters' names.

    The file is read when the parser first asks for one of its values: a command without such an option, such as the one
    that mends a bad file, never reads it.
    """

    def __init__(self, parameters: Iterable[Any]) -> None:
        super().__init__()
        self._settings = {
            parameter.name: option_name(parameter)
            for parameter in parameters
            if parameter.param_type_name == "option" and parameter.envvar is not None
        }
        self._read: dict[str, Any] | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """The file's value for a parameter; called by the parser."""
        setting = self._settings.get(name)
        if setting not in SETTINGS:
            return default
        if self._read is None:
            self._read = read_settings()
        return self._read.get(setting, default)
