"""Every command's output by the name of its schema."""

from __future__ import annotations

from pydantic import BaseModel

from prefixkv_cli.json_outputs.answers import AnswerOutput, BatchOutput, SavedOutput
from prefixkv_cli.json_outputs.facts import EnvironmentOutput, ModelOutput, ModelsOutput, SceneOutput
from prefixkv_cli.json_outputs.measured import BenchmarkOutput, EvaluationOutput, ProfileDifferenceOutput, SearchOutput
from prefixkv_cli.json_outputs.saved import (
    ConfigsOutput,
    ContextsOutput,
    LoggedAnswerOutput,
    LogOutput,
    ProfilesOutput,
    SettingsOutput,
)

OUTPUTS: dict[str, type[BaseModel]] = {
    "chat-output": AnswerOutput,
    "save-output": SavedOutput,
    "batch-output": BatchOutput,
    "contexts-output": ContextsOutput,
    "configs-output": ConfigsOutput,
    "profiles-output": ProfilesOutput,
    "profile-diff-output": ProfileDifferenceOutput,
    "eval-output": EvaluationOutput,
    "bench-output": BenchmarkOutput,
    "search-output": SearchOutput,
    "models-output": ModelsOutput,
    "info-output": ModelOutput,
    "demo-scene-output": SceneOutput,
    "log-output": LogOutput,
    "log-show-output": LoggedAnswerOutput,
    "settings-output": SettingsOutput,
    "env-output": EnvironmentOutput,
}
"""By the name of the schema's file."""
