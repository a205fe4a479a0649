"""`prefixkv save`: read pictures once and keep the compressed cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefixkv.errors import OptionError
from prefixkv.generation.sampling import Sampling
from prefixkv.home import named_file
from prefixkv.methods.table import DEFAULT_METHOD
from prefixkv.policy.budget import format_bytes
from prefixkv.policy.codec import DEFAULT_CODEC
from prefixkv_cli import options, output
from prefixkv_cli.dialogue.opening import Opening


def save(
    invocation: typer.Context,
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help="Pictures to read.")] = None,
    image: options.ImageOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Name to save it under.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write, instead of a name.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="First question: what matters to it is kept, too."),
    ] = None,
    model: options.ModelOption = "auto",
    budget: options.BudgetOption = options.DEFAULT_BUDGET,
    method: options.MethodOption = DEFAULT_METHOD,
    codec: options.CodecOption = DEFAULT_CODEC,
    no_profile: options.NoProfileOption = False,
    config: options.ConfigOption = None,
    system: options.SystemOption = "",
    template_arg: options.TemplateArgOption = None,
    max_pixels: options.MaxPixelsOption = None,
    max_new_tokens: options.MaxNewTokensOption = 512,
    temperature: options.TemperatureOption = 0.0,
    top_p: options.TopPOption = 1.0,
    seed: options.SeedOption = None,
    keep_marks: options.KeepMarksOption = False,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    device_map: options.DeviceMapOption = None,
    load_in_8bit: options.EightBitOption = False,
    load_in_4bit: options.FourBitOption = False,
    trust_remote_code: options.TrustOption = False,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Read pictures once and keep the compressed cache as a file, to ask about them later.

    Without a prompt, what stays is chosen by the pictures alone.

    Example: prefixkv save desk.jpg -p "What is on the desk?" --name desk

    Example: prefixkv chat --context desk -p "And below it?"
    """
    if (name is None) == (out is None):
        raise OptionError("give either --name or --out: where to save the context")
    path = named_file("contexts", name) if name is not None else out
    assert path is not None
    if path.suffix != ".safetensors":
        raise OptionError(f"context {str(path)!r} cannot be written: give a name that ends in .safetensors")
    if prompt is not None and not prompt.strip():
        raise OptionError("the prompt is empty: give some text after --prompt, or leave it out")
    sources = [*(images or ()), *(image or ())]
    if not sources:
        raise OptionError("there is no picture to read: give one, such as `prefixkv save photo.jpg --name photo`")
    given = options.on_command_line(invocation)
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    opening = Opening(
        given,
        model,
        budget,
        method,
        sampling,
        config,
        device=device,
        dtype=dtype,
        placement=options.placement(device, device_map, load_in_8bit, load_in_4bit, trust_remote_code),
        images=sources,
        system=system,
        template_args=template_arg or (),
        max_pixels=max_pixels,
        keep_marks=keep_marks,
        codec=codec,
        no_profile=no_profile,
    )
    opening.check()
    opening.choose_model()
    conversation = opening.conversation()
    from prefixkv_cli.dialogue.reading_view import reading_shown

    with reading_shown(conversation) as stop:
        if prompt is None:
            conversation.read()
        else:
            for _ in conversation.ask(prompt):
                stop()
    from prefixkv.chat.context import save_context

    save_context(conversation, path, name or path.stem)
    answer, usage, size = conversation.last_answer, conversation.usage(), path.stat().st_size
    warnings = output.take_notices()
    if json:
        output.write_document(
            "saved",
            {
                "name": name or path.stem,
                "path": str(path),
                "file_bytes": size,
                "answer": answer.text if answer else None,
                "codec": usage.codec,
                "kept_tokens_fraction": usage.kept_tokens_fraction,
                "bytes_fraction": usage.bytes_fraction,
                "bits": usage.bits,
                "kept_bytes": usage.kept_bytes,
                "full_bytes": usage.full_bytes,
                **({"warnings": warnings} if warnings else {}),
            },
        )
        return
    if answer is not None:
        output.write_text(answer.text + "\n")
    output.notice(f"saved {path} ({format_bytes(size)}) · {' · '.join(usage.words())}")
