"""`prefixkv search`: find every layer's share of a budget."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from prefixkv.documents import file_sha256
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.home import named_file
from prefixkv.methods.table import DEFAULT_METHOD, get_method
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import check_model_name, profile_name, weights_are_here
from prefixkv.models.names import full_name
from prefixkv.models.shapes import SHAPES
from prefixkv.policy.budget import Budget, format_bytes
from prefixkv.policy.codec import DEFAULT_CODEC, get_codec
from prefixkv.profiles.config import ALLOCATIONS, PrefixConfig
from prefixkv.profiles.profile import LayerProfile
from prefixkv.profiles.profile_path import find_profile, profile_path
from prefixkv_cli import options, output
from prefixkv_cli.device_fit import fit_lines, room_on_device
from prefixkv_cli.progress_bar import progress_bar
from prefixkv_cli.tables.config_table import config_table

DEFAULT_CONTEXT = 1024
HELD_OUT_SAMPLES, HELD_OUT_SEED = 6, 1_000_000


def search(
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="What to keep: a share, a size or tokens; auto: the smallest within --tolerance."
        ),
    ] = None,
    model: options.ModelOption = "auto",
    profile: Annotated[
        str | None, typer.Option("--profile", help="Name or file of a profile; the model's newest where not given.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context-tokens", "--context", help="Tokens of one row, prompt and answer.", show_default="1024"
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Rows that share a budget in bytes.")] = 1,
    allocation: Annotated[
        str | None,
        typer.Option(
            "--allocation",
            help=f"How layers share: {', '.join(ALLOCATIONS)}.",
            show_default="the method's",
            autocompletion=options.starting_with(lambda: ALLOCATIONS),
        ),
    ] = None,
    method: options.MethodOption = DEFAULT_METHOD,
    codec: options.CodecOption = DEFAULT_CODEC,
    tolerance: Annotated[
        str, typer.Option("--tolerance", help="With --budget auto: allowed rise of held-out perplexity.")
    ] = "1%",
    fit: Annotated[bool, typer.Option("--fit", help="Say how many rows fit the device.")] = False,
    target_batch: Annotated[
        int | None, typer.Option("--target-batch", help="Take the largest budget at which so many rows fit the device.")
    ] = None,
    device_memory: Annotated[
        str | None, typer.Option("--device-memory", help="Memory to fit, such as 80GB.", show_default="this GPU's")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Save it under this name.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Save it to this file.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Find every layer's share of a budget and save it as a configuration.

    Example: prefixkv search --model llava --budget 4GB --context-tokens 4096 --batch 32 --allocation uniform
    """
    if (budget is None) == (target_batch is None):
        raise OptionError("give either --budget or --target-batch")
    automatic = budget == "auto"
    parsed = None if budget is None or automatic else Budget.parse(budget)
    allowed = Budget.parse(tolerance)
    if allowed.kind != "fraction":
        raise OptionError(f"tolerance {tolerance!r} is no share: give one such as 1%")
    if allocation is None:
        usual = get_method(method).allocation
        allocation = usual if usual in ALLOCATIONS else "prefix"
    get_method(method)
    get_codec(codec)
    if allocation not in ALLOCATIONS:
        raise OptionError(f"allocation {allocation!r} is not known: choose one of {', '.join(ALLOCATIONS)}")
    if (context is not None and context < 1) or batch < 1 or (target_batch is not None and target_batch < 1):
        raise OptionError(f"context {context}, batch {target_batch or batch}: both must be 1 or more")
    check_model_name(model)
    target = out if out is not None else named_file("configs", name) if name else None
    path = _profile_path(profile, model, allocation)
    measured = LayerProfile.load(path) if path else None
    identity = measured.model if measured else _shape_of(model)
    wanted = full_name(model)
    if measured and model != "auto" and identity.id != wanted:
        raise PrefixKVError(f"profile {path} is for {identity.id}, not for {wanted}: give its own profile")
    tokens = DEFAULT_CONTEXT if context is None else context
    shape = SHAPES.get(identity.id)
    if shape and tokens > shape.context_tokens:
        output.notice(f"{identity.id} was trained for {shape.context_tokens} tokens; a context of {tokens} is longer")
    room = None
    if fit or target_batch is not None:
        room = room_on_device(identity, tokens, device_memory)
        batch = target_batch or batch
    if target_batch is not None and room is not None:
        parsed = Budget.parse(f"{room.cache_bytes}B")
    elif automatic:
        parsed = find_budget(model, allowed.amount, measured, method, codec)
    assert parsed is not None
    digest = file_sha256(path) if path else None
    found = PrefixConfig.search(
        parsed,
        identity,
        tokens,
        batch,
        allocation,
        method,
        name or (out.stem if out else "unnamed"),
        measured,
        digest,
        codec,
    )
    full = identity.geometry.counted_token_bytes * tokens * batch
    if found.budget["kept_tokens_fraction"] == 1:
        said = "" if found.codec == DEFAULT_CODEC else f" in codec {found.codec}"
        output.notice(f"the full cache is {format_bytes(full)} and fits the budget{said}: everything is kept")
    if room is not None:
        output.show(fit_lines(room, found))
    if target is not None:
        found.save(target)
        output.notice(f"saved {target}")
    else:
        output.notice("not saved: give --name NAME to keep it for `--config NAME`")
    if json:
        output.write_json({**found.as_dict(), "full_bytes": full, "kept_tokens": found.kept_tokens()})
    else:
        output.show(config_table(found))


def _profile_path(profile: str | None, model: str, allocation: str) -> Path | None:
    """The profile to search in; None where the allocation needs none."""
    if profile is not None:
        return find_profile(profile)
    if allocation == "uniform":
        return None
    found = profile_path(model)
    if found is not None:
        return found
    path = named_file("profiles", profile_name(model))
    if weights_are_here(model):
        from prefixkv_cli.commands.profile import measure_to

        output.notice(f"there is no profile of {model!r} yet: making one, once")
        measure_to(path, model)
        return path
    raise PrefixKVError(
        f"there is no profile of {model!r} yet: make it with `prefixkv profile --model {model}`, "
        "or search with --allocation uniform, which needs none"
    )


def _shape_of(model: str) -> ModelIdentity:
    """The model's shape without its weights: built in, or from its configuration."""
    wanted = full_name(model)
    if wanted in SHAPES:
        return ModelIdentity(wanted, None, SHAPES[wanted].geometry, None)
    from prefixkv.models.loading import read_identity

    return read_identity("demo" if model == "auto" else model)


def find_budget(
    model: str, tolerance: Fraction, profile: LayerProfile | None, method: str, codec: str = DEFAULT_CODEC
) -> Budget:
    """The smallest budget whose held-out perplexity rises by no more than the tolerance."""
    from prefixkv.evaluation.tuning import smallest_budget
    from prefixkv.profiles.calibration import drawn_samples
    from prefixkv_cli.model_loading import load_shown

    output.notice("the held-out samples are drawn scenes of coloured shapes, with the model's own answers")
    if model == "auto":
        model = profile.model.id if profile is not None else "demo"
    loaded = load_shown(model)
    held_out = drawn_samples(HELD_OUT_SAMPLES, first_seed=HELD_OUT_SEED)
    done = count(1)
    # The full cache, then bisection over 100 percentages.
    with progress_bar("searching", total=1 + (100).bit_length()) as update:

        def measured(text: str) -> None:
            update(completed=next(done), note=text)
            if not output.is_terminal(sys.stderr):
                output.notice(text)

        return smallest_budget(loaded, held_out, tolerance, profile, method, measured, codec)
