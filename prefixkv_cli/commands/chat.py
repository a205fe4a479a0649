"""`prefixkv chat`: ask about pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefixkv.errors import OptionError
from prefixkv.generation.sampling import Sampling
from prefixkv.home import names
from prefixkv.methods.table import DEFAULT_METHOD
from prefixkv.policy.codec import DEFAULT_CODEC
from prefixkv_cli import options, output
from prefixkv_cli.answer_log.journal import Journal
from prefixkv_cli.dialogue.last_conversation import find_last_conversation
from prefixkv_cli.dialogue.picture_input import STDIN
from prefixkv_cli.dialogue.prompt_input import read_prompts
from prefixkv_cli.reports.kept_file import check_kept_file, write_kept_file

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation


def chat(
    invocation: typer.Context,
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help="Pictures to talk about.")] = None,
    image: options.ImageOption = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="Ask this; - reads it from a pipe. Repeat it to ask on."),
    ] = None,
    model: options.ModelOption = "auto",
    budget: options.BudgetOption = options.DEFAULT_BUDGET,
    method: options.MethodOption = DEFAULT_METHOD,
    codec: options.CodecOption = DEFAULT_CODEC,
    no_profile: options.NoProfileOption = False,
    config: options.ConfigOption = None,
    search: Annotated[
        str, typer.Option("--search", help="config: the configuration's shares; online: search for every prompt.")
    ] = "config",
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="NAME",
            help="Go on from a saved context: its name or file.",
            autocompletion=options.starting_with(lambda: names("contexts")),
        ),
    ] = None,
    go_on: Annotated[
        bool,
        typer.Option(
            "--continue",
            help="Go on with the conversation that ended last in a terminal.",
        ),
    ] = False,
    system: options.SystemOption = "",
    template_arg: options.TemplateArgOption = None,
    max_pixels: options.MaxPixelsOption = None,
    max_new_tokens: options.MaxNewTokensOption = 512,
    temperature: options.TemperatureOption = 0.0,
    top_p: options.TopPOption = 1.0,
    seed: options.SeedOption = None,
    stop: options.StopOption = None,
    keep_marks: options.KeepMarksOption = False,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    device_map: options.DeviceMapOption = None,
    load_in_8bit: options.EightBitOption = False,
    load_in_4bit: options.FourBitOption = False,
    trust_remote_code: options.TrustOption = False,
    json: options.JsonOption = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print events as they happen, one JSON object a line.")
    ] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print the table of the cache after each answer.")] = False,
    show_kept: Annotated[
        Path | None,
        typer.Option(
            "--show-kept",
            metavar="FILE",
            help="Paint on the picture what each layer kept, to a .png file, or to a .html file with sliders over "
            "layers and budgets.",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Show answers as they are: no Markdown, no live view.")
    ] = False,
    log: options.LogOption = True,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="Have a running `prefixkv serve` answer --prompt; off loads the model here.",
            show_default="your own, where it runs",
        ),
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Ask about pictures: once with --prompt or piped text, else in a conversation.

    Example: prefixkv chat photo.jpg -p "What is on the table?" --budget 20%

    Example: prefixkv chat photo.jpg --model llava --budget 512MiB

    Example: prefixkv chat --context desk --json-lines -p "What is left of it?" -p "And right?"
    """
    given = options.on_command_line(invocation)
    if json and json_lines:
        raise OptionError("give either --json or --json-lines")
    asked = list(prompt or ())
    if "prompt" not in given and asked:
        # An option that may be repeated is split at white space where an environment variable gives it.
        asked = [os.environ["PREFIXKV_PROMPT"]]
    if go_on and "context" in given:
        raise OptionError("give either --context or --continue: both say what to go on from")
    if go_on:
        context = str(find_last_conversation())
    if json and len(asked) > 1:
        raise OptionError(f"--json prints one answer, and there are {len(asked)} prompts: give --json-lines")
    check_kept_file(show_kept)
    sources = [*(images or ()), *(image or ())]
    sampling = Sampling(max_new_tokens, temperature, top_p, seed, stop=tuple(stop or ()))
    placement = options.placement(device, device_map, load_in_8bit, load_in_4bit, trust_remote_code)
    # Here, so that a shell that completes a word does not wait for it.
    from prefixkv_cli.dialogue.opening import Opening

    opening = Opening(
        given,
        model,
        budget,
        method,
        sampling,
        config,
        search,
        device,
        dtype,
        placement,
        sources,
        context,
        system,
        template_arg or (),
        max_pixels,
        keep_marks,
        codec,
        no_profile,
    )
    opening.check()
    needed_for = "--json" if json else "--json-lines" if json_lines else ""
    questions = read_prompts(asked, needed_for, stdin_is_taken=STDIN in sources)
    if questions:
        opening.require_pictures()
    needs_engine = [
        name
        for name, is_asked in (
            ("a conversation in the terminal", not questions),
            ("--show-kept", show_kept is not None),
            ("--stats", stats),
        )
        if is_asked
    ]
    # Here, so that help and completion start without what speaks HTTP.
    from prefixkv_cli.remote.opening import remote_conversation

    if talk_with := remote_conversation(opening, server, needs_engine):
        from prefixkv_cli.remote.questions import ask_remotely

        ask_remotely(talk_with, questions, Journal(log), json, json_lines, plain)
        return
    opening.choose_model()
    conversation = None
    if questions:
        conversation = opening.conversation()
        _ask(conversation, questions, Journal(log), json, json_lines, plain, stats)
    else:
        from prefixkv_cli.dialogue.conversation import converse
        from prefixkv_cli.dialogue.talk import Talk

        behind = opening.is_model_here()

        def make() -> Talk:
            begun = opening.conversation(needs_pictures=False, shown=not behind)
            return Talk(begun, stats, plain, Journal(log), opening.load)

        if (talk := converse(make, opening.model, behind)) is not None:
            conversation = talk.conversation
    if show_kept is not None and conversation is not None:
        write_kept_file(conversation, show_kept)


def _ask(
    conversation: Conversation,
    questions: Sequence[str],
    journal: Journal,
    json: bool,
    json_lines: bool,
    plain: bool,
    stats: bool,
) -> None:
    """Ask without a conversation in the terminal, one question after another."""
    if json_lines:
        from prefixkv_cli.dialogue.event_stream import stream_events

        stream_events(conversation, questions, journal)
    elif json:
        from prefixkv_cli.dialogue.turn_record import turn_record

        with journal.logged(conversation):
            for _ in conversation.ask(questions[0]):
                pass
            output.write_document("answer", turn_record(conversation))
    else:
        from prefixkv_cli.dialogue.answer_view import show_answer
        from prefixkv_cli.dialogue.talk import Talk

        for question in questions:
            with journal.logged(conversation):
                show_answer(conversation, conversation.ask(question), plain)
        if stats or (output.is_terminal(sys.stderr) and not output.is_quiet()):
            Talk(conversation).show_layers()
