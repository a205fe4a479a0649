"""`prefixkv chat`: ask about pictures."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefixkv.budget import Budget
from prefixkv.config import PrefixConfig
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.home import find_file
from prefixkv.methods import DEFAULT_METHOD, get_method
from prefixkv.models import check_device_name, check_dtype_name, check_model_name, load_model
from prefixkv.sampling import Sampling
from prefixkv_cli import options, output
from prefixkv_cli.prompt_input import read_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from prefixkv.chat import Conversation


def chat(
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help="Pictures to talk about.")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this once; text piped in is added to it.")
    ] = None,
    model: options.ModelOption = "auto",
    budget: options.BudgetOption = options.DEFAULT_BUDGET,
    method: options.MethodOption = DEFAULT_METHOD,
    config: Annotated[
        str | None, typer.Option("--config", help="Name or file of a configuration, instead of budget and method.")
    ] = None,
    search: Annotated[
        str, typer.Option("--search", help="config: the configuration's shares; online: search for every prompt.")
    ] = "config",
    max_new_tokens: options.MaxNewTokensOption = 512,
    temperature: options.TemperatureOption = 0.0,
    top_p: options.TopPOption = 1.0,
    seed: options.SeedOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    json: options.JsonOption = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print the table of cache usage after each answer.")] = False,
) -> None:
    """Ask about pictures: once with --prompt or piped text, else in a conversation.

    Example: prefixkv chat photo.jpg -p "What is on the table?" --budget 20%
    """
    # Here, so that the other commands start without the picture and table code.
    from prefixkv.images import open_image

    parsed_budget = Budget.parse(budget)
    get_method(method)
    if config is not None and (budget != options.DEFAULT_BUDGET or method != DEFAULT_METHOD):
        raise OptionError("a configuration brings its own budget and method: give either --config or those")
    if search not in ("config", "online"):
        raise OptionError(f"search {search!r} is not known: choose config or online")
    chosen = PrefixConfig.load(find_file("configs", config)) if config is not None else None
    if chosen is not None and search == "online":
        parsed_budget, method, chosen = chosen.as_budget(), chosen.method, None
    if get_method(method).keeps_all and not parsed_budget.is_hard_limit and parsed_budget.amount != 1:
        output.notice(f"method {method!r} keeps everything: the budget of {parsed_budget.text} is not applied")
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    check_device_name(device)
    check_dtype_name(dtype)
    pictures = [open_image(image) for image in images or []]
    check_model_name(model)
    _check_pictures(model, pictures)
    question = read_prompt(prompt, needed=json)

    loaded = load_model(model, device=device, dtype=dtype, notify=output.notice)
    _check_pictures(loaded.id, pictures)
    from prefixkv.chat import Conversation

    conversation = Conversation(
        loaded, budget=chosen or parsed_budget, method=method, sampling=sampling, notify=output.notice
    )
    if question is None:
        from prefixkv_cli.conversation import converse

        converse(conversation, pictures, stats)
    elif json:
        for _ in conversation.ask(question, pictures):
            pass
        output.write_json(_record(conversation))
    else:
        from prefixkv_cli.answer_view import show_answer

        show_answer(conversation, conversation.ask(question, pictures))
        if stats or output.is_terminal(sys.stderr):
            show_stats(conversation)


def show_stats(conversation: Conversation) -> None:
    """The table of cache usage as it is now, with the last answer's speed."""
    from prefixkv_cli.usage_table import usage_table

    answer = conversation.last_answer
    output.show(usage_table(conversation.usage(), answer.tokens_per_second if answer else None))


def _check_pictures(model: str, pictures: list[Image]) -> None:
    if model == "demo" and not pictures:
        raise PrefixKVError(
            "the demo model answers questions about a picture: give one (`prefixkv demo-scene scene.png` draws one), "
            "or choose another --model"
        )


def _record(conversation: Conversation) -> dict[str, Any]:
    answer = conversation.last_answer
    assert answer is not None
    cache = conversation.cache
    return {
        "answer": answer.text,
        "model": conversation.loaded.id,
        "method": cache.method.name,
        "budget": cache.budget.text,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        "kv": conversation.usage().as_dict(),
        "seconds": {
            "load": conversation.loaded.load_seconds,
            "prefill": answer.prefill_seconds,
            "decode": answer.decode_seconds,
        },
        "tokens_per_second": answer.tokens_per_second,
        "peak_device_bytes": conversation.peak_device_bytes(),
    }
