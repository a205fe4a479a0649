"""Commands that change by which rule the next questions are answered: model, budget, method, codec, sampling."""

from __future__ import annotations

from prefixkv.home import find_file, names
from prefixkv.methods.table import METHODS, method_names
from prefixkv.models.names import ALIASES
from prefixkv.policy.budget import BUDGET_HELP
from prefixkv.policy.codec import CODECS
from prefixkv.profiles.config import PrefixConfig
from prefixkv_cli import output
from prefixkv_cli.dialogue.answer_settings import SETTING_HELP, SETTINGS, changed, described
from prefixkv_cli.dialogue.model_switch import switch_model
from prefixkv_cli.dialogue.slash_command import SlashCommand, columns_of, listed
from prefixkv_cli.dialogue.talk import Talk

BUDGETS = {
    "100%": "nothing is evicted",
    "50%": "half of the full cache's bytes",
    "20%": "a fifth of them",
    "512MiB": "a size that is never exceeded",
    "300tok": "as much as so many tokens take",
}
MODELS = {"demo": "bundled, knows drawn pictures only", **ALIASES}
"""Short names, each with the Hugging Face id that it stands for."""


def _budget(talk: Talk, argument: str) -> None:
    conversation = talk.conversation
    if not argument:
        output.status(f"the budget is {conversation.cache.budget.text}; give {BUDGET_HELP}")
        return
    conversation.change_budget(argument, conversation.cache.method, conversation.cache.codec)
    _say_changed(talk, f"budget {argument}")


def _method(talk: Talk, argument: str) -> None:
    conversation = talk.conversation
    if not argument:
        current = conversation.cache.method.name
        output.show(
            columns_of([(f"{'*' if name == current else ' '} {name}", text) for name, text in _methods().items()])
        )
        return
    conversation.change_budget(conversation.cache.budget, argument, conversation.cache.codec)
    _say_changed(talk, f"method {argument}")


def _codec(talk: Talk, argument: str) -> None:
    conversation = talk.conversation
    if not argument:
        current = conversation.cache.codec.name
        rows = [(f"{'*' if name == current else ' '} {name}", codec.summary) for name, codec in CODECS.items()]
        output.show(columns_of(rows))
        return
    conversation.change_budget(conversation.cache.budget, conversation.cache.method, argument)
    _say_changed(talk, f"codec {argument}")


def _config(talk: Talk, argument: str) -> None:
    if not argument:
        output.show(f"configurations: {listed('configs')}")
        return
    talk.conversation.change_budget(PrefixConfig.load(find_file("configs", argument)))
    _say_changed(talk, f"configuration {argument}")


def _say_changed(talk: Talk, what: str) -> None:
    again = ": the next question reads the conversation again" if talk.conversation.history else ""
    output.status(f"{what}{again}")


def _system(talk: Talk, argument: str) -> None:
    if not argument and not talk.conversation.system:
        output.status("there is no system text; /system TEXT sets one")
        return
    talk.conversation.instruct(argument)
    _say_changed(talk, "system text set" if argument else "no system text")


def _set(talk: Talk, argument: str) -> None:
    if argument:
        talk.conversation.sampling = changed(talk.conversation.sampling, argument)
    output.status(described(talk.conversation.sampling))


def _model(talk: Talk, argument: str) -> None:
    if not argument:
        rows = [(f"{'*' if name == talk.conversation.loaded.id else ' '} {name}", MODELS[name]) for name in MODELS]
        output.show(columns_of(rows))
        return
    switch_model(talk, argument)


def _methods() -> dict[str, str]:
    unread = "of an installed package"
    return {name: METHODS[name].summary if name in METHODS else unread for name in method_names()}


def _codecs() -> dict[str, str]:
    return {name: codec.summary for name, codec in CODECS.items()}


RULE_COMMANDS: dict[str, SlashCommand] = {
    "/budget": SlashCommand("X", "what the cache may keep", _budget, lambda: BUDGETS),
    "/method": SlashCommand("X", "how entries are chosen; alone: all of them", _method, _methods),
    "/codec": SlashCommand("X", "in which precision entries are stored; alone: all of them", _codec, _codecs),
    "/config": SlashCommand(
        "NAME", "take a saved configuration; alone: all of them", _config, lambda: names("configs")
    ),
    "/set": SlashCommand("SETTING VALUE", f"{', '.join(SETTINGS)}; alone: how they are", _set, lambda: SETTING_HELP),
    "/model": SlashCommand(
        "NAME", "go on with another model and the same pictures; alone: all short names", _model, lambda: MODELS
    ),
    "/system": SlashCommand("TEXT", "instructions before all turns; alone: none", _system),
}
"""By name."""
