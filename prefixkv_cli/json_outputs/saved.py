"""What lists of saved files, of the log and of settings print with `--json`."""

from __future__ import annotations

from typing import Any, Literal

from prefixkv_cli.answer_log.store import LoggedAnswer
from prefixkv_cli.json_outputs.part import Output, Part


class ListedContext(Part):
    """A saved context."""

    name: str
    model: str
    method: str
    codec: str
    budget: str
    turns: int
    pictures: int
    kept_bytes: int
    full_bytes: int
    file_bytes: int
    age_seconds: int


class ContextsOutput(Output):
    """`contexts list`."""

    format: Literal["prefixkv-contexts"]
    contexts: list[ListedContext]


class ListedConfig(Part):
    """A saved configuration."""

    name: str
    model: str
    method: str
    codec: str
    budget: str
    file_bytes: int
    age_seconds: int
    source: str


class ConfigsOutput(Output):
    """`configs list`."""

    format: Literal["prefixkv-configs"]
    configs: list[ListedConfig]


class ListedProfile(Part):
    """A saved profile."""

    name: str
    model: str
    samples: int
    file_bytes: int
    age_seconds: int
    source: str


class ProfilesOutput(Output):
    """`profile list`."""

    format: Literal["prefixkv-profiles"]
    profiles: list[ListedProfile]


class LogOutput(Output):
    """`log list` and `log search`, the newest first."""

    format: Literal["prefixkv-log"]
    answers: list[LoggedAnswer]


class LoggedAnswerOutput(Output):
    """`log show`."""

    format: Literal["prefixkv-logged-answer"]
    entry: LoggedAnswer


class SettingsOutput(Output):
    """`settings show`: each setting with its value and where that is from."""

    format: Literal["prefixkv-effective-settings"]
    path: str
    settings: list[dict[str, Any]]
