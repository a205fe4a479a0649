"""`prefixkv env`: what a bug report needs to say."""

from __future__ import annotations

from prefixkv.policy.budget import format_bytes
from prefixkv_cli import options, output
from prefixkv_cli.allocator import is_chosen_here
from prefixkv_cli.settings.file import read_settings


def env(json: options.JsonOption = False) -> None:
    """Print versions, devices and settings, to be pasted into a bug report.

    Example: prefixkv env
    """
    from prefixkv.machine import describe_machine

    # What the user writes to a model is not for a bug report.
    in_file = {name: "(set)" if name == "system" else value for name, value in read_settings().items()}
    record = {**describe_machine(), "settings": in_file}
    if json:
        output.write_document("environment", record)
        return
    gpus = [f"{gpu['name']} ({format_bytes(gpu['bytes'])})" for gpu in record["gpus"]]
    rows = {
        **{name: record[name] for name in ("prefixkv", "python", "platform", "processor", "cores", "torch_threads")},
        "gpus": ", ".join(gpus) or "none",
        "cuda": record["cuda"] or "none",
        **{name: version or "not installed" for name, version in record["packages"].items()},
        "home": record["home"],
        **{name: f"{value}{_by_whom(name)}" for name, value in record["variables"].items()},
        **{name: f"{value} (settings file)" for name, value in in_file.items()},
    }
    width = max(map(len, rows))
    output.write_text("".join(f"{name:<{width}}  {value}\n" for name, value in rows.items()))


def _by_whom(variable: str) -> str:
    return " (set by prefixkv)" if is_chosen_here(variable) else ""
