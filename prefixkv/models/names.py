"""What a model may be called: an alias, a hub id or a folder. Looks at the local disk at most."""

from __future__ import annotations

import re
from pathlib import Path

from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.models.families import FAMILIES
from prefixkv.models.geometry import DTYPE_BYTES

ALIASES = {family.alias: family.example for family in FAMILIES}
"""Short names of hub models; `demo` is the bundled model and `auto` chooses."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_model_name(name: str) -> None:
    """Refuse a name that can be no model; looks at the local disk only.

    Raises:
        PrefixKVError: says what is missing.
    """
    if name in ("auto", "demo", *ALIASES):
        return
    path = _path(name)
    if path is None:
        raise PrefixKVError(f"model {name[:100]!r} is not there: no folder can have that name, and no hub id")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise PrefixKVError(f"folder {name!r} holds no model: there is no config.json in it")
    elif path.exists():
        raise PrefixKVError(f"model {name!r} is a file: give the folder that holds config.json and the weights")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or not _HUB_ID.fullmatch(name):
        raise PrefixKVError(
            f"model {name!r} is not there: give auto, demo, an alias that `prefixkv models` lists, a Hugging Face id "
            f"such as {ALIASES['llava']}, or a folder"
        )


def check_device_name(name: str) -> None:
    """Raise an OptionError for what is no device; whether this machine has it is seen when a model is loaded."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise OptionError(f"device {name!r} is not known: choose auto, cpu, cuda, cuda:N or mps")


def check_dtype_name(name: str) -> None:
    """Raise an OptionError for what is no dtype that a cache can be stored in."""
    if name not in ("auto", *DTYPE_BYTES):
        raise OptionError(f"dtype {name!r} is not known: choose auto, {', '.join(DTYPE_BYTES)}")


def profile_name(name: str) -> str:
    """The name under which a model's profile is saved."""
    wanted = "demo" if name == "auto" else full_name(name)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "--", wanted).strip(".-")
    return plain[-100:].strip(".-")


def known_name(path: str) -> str:
    """The name of a model that was loaded from a folder or a hub id: `demo` for the bundled one."""
    from prefixkv.demo import weights_path

    return "demo" if path and Path(path) == weights_path() else full_name(path)


def full_name(name: str) -> str:
    """What a model is called in files, wherever they are read later: an alias's hub id, a folder's whole path."""
    if name in ("auto", "demo", *ALIASES):
        return ALIASES.get(name, name)
    path = _path(name)
    return str(path.resolve()) if name and path is not None and path.is_dir() else name


def folder_notice(name: str) -> str | None:
    """What to say where a folder is called like an alias, which is meant then; None where none is."""
    if name not in ("auto", "demo", *ALIASES) or not Path(name).is_dir():
        return None
    meant = f"the alias of {ALIASES[name]}" if name in ALIASES else "a name of its own"
    return f"{name!r} is {meant}: for the folder that is called so, give ./{name}"


def source_of(name: str) -> str:
    """What transformers is to load: a folder or a hub id."""
    if name == "demo":
        from prefixkv.demo import weights_path

        return str(weights_path())
    return full_name(name)


def _path(name: str) -> Path | None:
    """The path that a name may be; None where no file system or user has such a one."""
    try:
        path = Path(name).expanduser()
        path.is_dir()
    except (OSError, ValueError, RuntimeError):
        return None
    return path
