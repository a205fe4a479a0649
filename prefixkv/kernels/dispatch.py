"""Picks the kernel: Triton on a CUDA device where it is new enough, else plain torch. The one place that decides."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from prefixkv.kernels import gathering
from prefixkv.kernels.entry_table import WHOLE_BITS, EntryTable
from prefixkv.kernels.gathering import Move, Moved
from prefixkv.kernels.linear import Weight

PLAIN_DTYPES = {torch.float64}
"""What Triton's versions do not take."""
OLDEST_TRITON = (3, 6)
"""What comes with torch 2.10; the kernels multiply matrices that are narrower than some older versions allow."""


@functools.cache
def triton_obstacle() -> str | None:
    """Why the Triton kernels cannot run, in a few words; None where they can."""
    if torch.version.hip:
        return "this torch is for AMD's GPUs, and the kernels are for NVIDIA's"
    try:
        version: str = importlib.import_module("triton").__version__
    except ImportError:
        return "Triton is not installed"
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TRITON:
        return f"Triton is {version} and must be {OLDEST_TRITON[0]}.{OLDEST_TRITON[1]} or newer"
    return None


def plain_path_is_wanted() -> bool:
    """Whether the user leaves reading and decoding to transformers: PREFIXKV_CAPTURE=0 in the environment."""
    return os.environ.get("PREFIXKV_CAPTURE", "1") == "0"


def reads_in_kernels(device: torch.device) -> bool:
    """Whether models on a device read prompts in the project's own kernels: on GPUs that run them, unless unwanted."""
    return device.type == "cuda" and triton_obstacle() is None and not plain_path_is_wanted()


def implementation(operation: str, like: torch.Tensor, name: str | None = None) -> Callable[..., Any]:
    """The function that runs an operation.

    Args:
        operation: module and function, such as `attention_mass` or `linear.rms_norm`.
        like: a tensor that it is given: its device and dtype decide.
        name: `torch` or `triton`: this one, whatever fits best.

    Returns:
        A function with the signature of the plain twin.
    """
    fits = like.is_cuda and like.dtype not in PLAIN_DTYPES and triton_obstacle() is None
    package = "prefixkv.kernels.triton" if name == "triton" or (name is None and fits) else "prefixkv.kernels"
    return _find(package, operation)


@functools.cache
def _find(package: str, operation: str) -> Callable[..., Any]:
    module, _, function = operation.partition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f"{package}.{module}"), function or module)
    return found


def _run(operation: str, like: torch.Tensor, *args: Any) -> Any:
    """Run an operation where its tensors are: Triton starts its kernels on the current device, whatever it is given."""
    function = implementation(operation, like)
    if like.is_cuda and like.device.index != torch.cuda.current_device():
        with torch.cuda.device(like.device):
            return function(*args)
    return function(*args)


def attention_mass(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """See `prefixkv.kernels.attention_mass`."""
    return _run("attention_mass", queries, queries, keys, scale)


def attention_peak(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, own: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `prefixkv.kernels.attention_peak`."""
    return _run("attention_peak", queries, queries, keys, scale, own)


def selection(importance: torch.Tensor, kept_len: int, sink_tokens: int, recent_tokens: int) -> torch.Tensor:
    """See `prefixkv.kernels.selection`."""
    return _run("selection", importance, importance, kept_len, sink_tokens, recent_tokens)


def ranking(
    importance: torch.Tensor, sink_tokens: int, recent_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `prefixkv.kernels.ranking`."""
    return _run("ranking", importance, importance, sink_tokens, recent_tokens)


def first_ranked(ranks: Sequence[torch.Tensor], counts: Sequence[int]) -> list[torch.Tensor]:
    """See `prefixkv.kernels.ranking`."""
    return _run("ranking.first_ranked", ranks[0], ranks, counts) if ranks else []


def curve(values: torch.Tensor) -> torch.Tensor:
    """See `prefixkv.kernels.curve`."""
    return _run("curve", values, values)


def gather(moves: Sequence[Move], bits: int | None = None) -> list[Moved]:
    """See `prefixkv.kernels.gathering`."""
    if any(move.keys.shape[-1] != move.values.shape[-1] for move in moves):
        # The Triton kernel moves keys and values of one width.
        return gathering.gather(moves, bits)
    return _run("gathering.gather", moves[0].keys, moves, bits)


def pack(vectors: torch.Tensor, bits: int) -> torch.Tensor:
    """See `prefixkv.kernels.packing`."""
    return _run("packing.pack", vectors, vectors, bits)


def rotary(
    query: torch.Tensor, key: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `prefixkv.kernels.rotary`."""
    return _run("rotary", query, query, key, cosine, sine)


def decode_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cosine: torch.Tensor | None,
    sine: torch.Tensor | None,
    scale: float,
    table: EntryTable,
    layer: int,
    formats: Sequence[int] = (WHOLE_BITS,),
    softcap: float | None = None,
) -> torch.Tensor:
    """See `prefixkv.kernels.decode_attention`."""
    return _run("decode_attention", query, query, key, value, cosine, sine, scale, table, layer, formats, softcap)


def next_slots(table: EntryTable) -> None:
    """See `prefixkv.kernels.next_slots`."""
    _run("next_slots", table.cells, table)


def normed_linear(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float, weights: Sequence[Weight]
) -> list[torch.Tensor]:
    """See `prefixkv.kernels.linear`."""
    return _run("linear.normed_linear", hidden, hidden, gain, epsilon, weights)


def swiglu_linear(
    hidden: torch.Tensor, gain: torch.Tensor, epsilon: float, gate: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    """See `prefixkv.kernels.linear`."""
    return _run("linear.swiglu_linear", hidden, hidden, gain, epsilon, gate, up)


def residual_linear(hidden: torch.Tensor, weight: Weight, residual: torch.Tensor) -> torch.Tensor:
    """See `prefixkv.kernels.linear`."""
    return _run("linear.residual_linear", hidden, hidden, weight, residual)
