"""The commands, each imported only when it is asked for: their modules are most of what the program has to load."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

from prefixkv_cli.help_panels import PanelledCommand, PanelledGroup, PanelledTyper

COMPLETE_VARIABLE = "_PREFIXKV_COMPLETE"
"""The shell sets it when it asks for completions."""


@dataclass(frozen=True)
class _Entry:
    """Where a command is.

    Attributes:
        panel: group of commands in the help.
        summary: first sentence of the command's help, as lists of commands have it.
        attribute: of the command's module; `app` for a group of commands.
        module: of `prefixkv_cli.commands`; named as the command where empty.
    """

    panel: str
    summary: str
    attribute: str
    module: str = ""


_ANSWERS, _BUDGETS, _MEASURES, _FACTS = "Answers", "Budgets", "Measurements", "Models and this machine"
_TABLE = {
    "chat": _Entry(_ANSWERS, "Ask about pictures: once with --prompt or piped text, else in a conversation.", "chat"),
    "batch": _Entry(
        _ANSWERS,
        "Answer every line of a file, or ask the same about many pictures; each answer is what it would be alone.",
        "batch",
    ),
    "serve": _Entry(
        _ANSWERS,
        "Keep a model loaded and answer OpenAI's chat completions, each conversation on a compressed cache of its own.",
        "serve",
    ),
    "save": _Entry(
        _ANSWERS, "Read pictures once and keep the compressed cache as a file, to ask about them later.", "save"
    ),
    "contexts": _Entry(_ANSWERS, "List, show and remove saved contexts.", "app"),
    "log": _Entry(_ANSWERS, "List, show, search and remove questions and answers that `chat` has logged.", "app"),
    "profile": _Entry(_BUDGETS, "Measure a model's layers, once; list, show, compare and remove profiles.", "app"),
    "search": _Entry(_BUDGETS, "Find every layer's share of a budget and save it as a configuration.", "search"),
    "configs": _Entry(_BUDGETS, "List, show, import, export and remove saved configurations.", "app"),
    "eval": _Entry(
        _MEASURES,
        "Measure every method at the same bytes against the full cache: perplexity, ROUGE-L, accuracy, divergence.",
        "evaluate",
    ),
    "bench": _Entry(
        _MEASURES,
        "Measure time and memory of prefill and decoding at each budget, beside stock transformers in the same run.",
        "bench",
    ),
    "lm-eval": _Entry(
        _MEASURES,
        "Run lm-evaluation-harness; every prompt is compressed before its answer is scored or written.",
        "lm_eval",
        "lm_eval",
    ),
    "models": _Entry(
        _FACTS,
        "List the families that work, with an alias for one model of each, and those that cannot work.",
        "models",
    ),
    "info": _Entry(
        _FACTS,
        "Say what a model's cache takes for every token and picture, and how large its weights are; loads no weights.",
        "info",
    ),
    "env": _Entry(_FACTS, "Print versions, devices and settings, to be pasted into a bug report.", "env"),
    "settings": _Entry(_FACTS, "Show, set and unset defaults of options, kept in a file.", "app"),
    "demo-scene": _Entry(
        _FACTS,
        "Draw a picture for the demo model; print questions about it with their answers.",
        "demo_scene",
        "demo_scene",
    ),
    "completion": _Entry(
        _FACTS,
        "Print the script that makes a shell complete commands, options, methods and saved names.",
        "completion",
    ),
}


class _Commands(MutableMapping[str, Any]):
    """Commands by name, in the order of the table; one that is looked up is imported."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self.only_summaries = False

    def __getitem__(self, name: str) -> Any:
        if self.only_summaries:
            entry = _TABLE[name]
            return PanelledCommand(name, help=entry.summary, rich_help_panel=entry.panel)
        if name not in self._made:
            self._made[name] = _import(name, _TABLE[name])
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_TABLE)

    def __len__(self) -> int:
        return len(_TABLE)

    def __contains__(self, name: object) -> bool:
        return name in _TABLE


class ProgramGroup(PanelledGroup):
    """The program: its help and a shell's list of commands need no command's module."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help of the program."""
        with self._only_summaries():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Names of commands that a word begins, for a shell."""
        with self._only_summaries():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _only_summaries(self) -> Iterator[None]:
        assert isinstance(self.commands, _Commands)
        self.commands.only_summaries = True
        try:
            yield
        finally:
            self.commands.only_summaries = False


def _import(name: str, entry: _Entry) -> Any:
    module = import_module(f"prefixkv_cli.commands.{entry.module or name}")
    found = getattr(module, entry.attribute)
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.name, group.rich_help_panel = name, entry.panel
        return group
    alone = PanelledTyper(add_completion=False)
    alone.command(name, rich_help_panel=entry.panel)(found)
    return typer.main.get_command(alone)
