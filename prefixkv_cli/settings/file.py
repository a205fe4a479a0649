"""The settings file: TOML in the home folder, whose comments and order are the user's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from prefixkv.documents import read_regular, write_whole
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.home import home
from prefixkv_cli.settings.names import SETTINGS
from prefixkv_cli.settings.variables import variable_of

MOST_BYTES = 2**20
"""A settings file above this size is not read."""
_ON = ("1", "true", "t", "yes", "y", "on")
"""What a variable may hold that switches an option on."""


def settings_file() -> Path:
    """Where the file is, or would be."""
    return home() / "settings.toml"


def read_settings() -> dict[str, Any]:
    """All values of the file by the options' names; none where there is no file.

    Raises:
        PrefixKVError: the file is no TOML, or has a name or a value that is not allowed.
    """
    path = settings_file()
    if not path.exists() and not path.is_symlink():
        return {}
    return _checked(_parsed(_text(path), path), path)


def is_switched_on(name: str) -> bool:
    """Whether a switch is on by its variable, or else by the file, before the command line is parsed.

    What is wrong with either is said by the parser, later.

    Args:
        name: of the option, without dashes.
    """
    if (text := os.environ.get(variable_of(name))) is not None:
        return text.strip().lower() in _ON
    path = settings_file()
    try:
        return path.is_file() and _parsed(_text(path), path).get(name) is True
    except (PrefixKVError, OSError):
        return False


def set_setting(name: str, text: str) -> None:
    """Write one value to the file; all else in it stays as the user has written it.

    Args:
        name: of `SETTINGS`.
        text: the value as a command line would have it.

    Raises:
        OptionError: the name is not known.
        PrefixKVError: the value is not allowed, or the file cannot be read or written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    from prefixkv_cli.settings.schema import SettingsSchema

    require_known(name)
    value: Any = text
    if "str" not in str(SettingsSchema.model_fields[name.replace("-", "_")].annotation):
        try:
            value = tomlkit.value(text).unwrap()
        # What is no number and no truth is a text, which the check refuses in its own words.
        except (TOMLKitError, ValueError):
            value = text
    _checked({name: value}, None)
    _edit(lambda document: document.__setitem__(name, value))


def unset_setting(name: str) -> bool:
    """Take one value out of the file.

    Args:
        name: of `SETTINGS`.

    Returns:
        Whether it was there.

    Raises:
        PrefixKVError: the name is not known, or the file cannot be read or written.
    """
    require_known(name)
    path = settings_file()
    if not path.exists() or name not in _parsed(_text(path), path):
        return False
    _edit(lambda document: document.__delitem__(name))
    return True


def require_known(name: str) -> None:
    """Raise an OptionError where there is no such setting; it says which there are."""
    if name not in SETTINGS:
        raise OptionError(f"setting {name!r} is not known: choose one of {', '.join(SETTINGS)}")


def _edit(change: Any) -> None:
    import tomlkit

    path = settings_file()
    text = _text(path) if path.exists() else ""
    _parsed(text, path)
    document = tomlkit.parse(text)
    change(document)
    write_whole(path, tomlkit.dumps(document).encode())


def _text(path: Path) -> str:
    try:
        return read_regular(path, "a TOML file", MOST_BYTES).decode()
    except UnicodeDecodeError as error:
        raise PrefixKVError(f"{path} is no UTF-8 ({error.reason}): save it as UTF-8") from None


def _parsed(text: str, path: Path) -> dict[str, Any]:
    # Here, since most users have no such file.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PrefixKVError(f"{path} is no valid TOML: {error}") from None


def _checked(content: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """The values that the schema takes; `path` is named in what is refused."""
    from prefixkv.schemas.field import parse, shown_text

    for name in content:
        if name not in SETTINGS:
            raise PrefixKVError(
                f"{path}: setting {shown_text(name)!r} is not known: choose one of {', '.join(SETTINGS)}"
            )
    from prefixkv_cli.settings.schema import SettingsSchema

    try:
        settings = parse(SettingsSchema, content, str(path))
    except PrefixKVError as error:
        if path is None:
            raise OptionError(str(error).removeprefix("None: ")) from None
        raise
    return settings.model_dump(by_alias=True, exclude_unset=True)
