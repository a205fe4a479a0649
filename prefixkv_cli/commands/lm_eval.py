"""`prefixkv lm-eval`: lm-evaluation-harness on compressed caches."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from prefixkv.errors import PrefixKVError
from prefixkv.methods.table import DEFAULT_METHOD, get_method
from prefixkv.models.loading import check_device_name, check_dtype_name, check_model_name
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, get_codec
from prefixkv_cli import options


def lm_eval(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGUMENTS", help="For the harness, behind --: --tasks, --limit, --output_path."),
    ] = None,
    model: options.ModelOption = "demo",
    budget: options.BudgetOption = options.DEFAULT_BUDGET,
    method: options.MethodOption = DEFAULT_METHOD,
    codec: options.CodecOption = DEFAULT_CODEC,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    log: Annotated[
        Path | None,
        typer.Option(
            "--kept-log",
            metavar="FILE",
            help="Add a JSON line about each request: prompt, bytes kept, bytes of the full cache.",
        ),
    ] = None,
) -> None:
    """Run lm-evaluation-harness; every prompt is compressed before its answer is scored or written.

    Example: prefixkv lm-eval --model HuggingFaceTB/SmolLM2-135M --budget 20% -- --tasks hellaswag --limit 100

    Example: prefixkv lm-eval --method h2o --kept-log kept.jsonl -- --tasks my_task --include_path tasks
    """
    if find_spec("lm_eval") is None:
        raise PrefixKVError("lm-eval is not installed: run `pip install 'prefixkv[lm-eval]'`")
    Budget.parse(budget)
    get_method(method)
    get_codec(codec)
    check_device_name(device)
    check_dtype_name(dtype)
    check_model_name(model)
    from lm_eval.__main__ import cli_evaluate

    from prefixkv.harnesses.lm_eval import register

    register()
    given = {"pretrained": model, "budget": budget, "method": method, "codec": codec, "device": device, "dtype": dtype}
    if log is not None:
        given["log"] = str(log)
    words = ["--model", "prefixkv", "--model_args", ",".join(f"{name}={value}" for name, value in given.items())]
    before = sys.argv
    sys.argv = ["lm_eval", "run", *words, *(arguments or ())]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
