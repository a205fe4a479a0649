"""`prefixkv`: PrefixKV (arXiv 2412.03409), and `prefixkv-release`: the same as the paper's code computes it."""

from __future__ import annotations

from dataclasses import replace

from prefixkv.methods import allocation
from prefixkv.methods.h2o import accumulated
from prefixkv.methods.layers_read import LayersRead, prefix
from prefixkv.methods.method import Method


def release(read: LayersRead) -> list[int]:
    """Share by the threshold and with the rounding of PrefixKV's released code."""
    share = min(1.0, read.total / sum(map(len, read.curves)))
    counts = allocation.release(read.curves, share, read.floor)
    return allocation.trimmed(counts, read.total) if read.is_hard_limit else counts


PREFIXKV = Method(
    "prefixkv",
    "accumulated attention, every layer its own share by one threshold (PrefixKV)",
    accumulated,
    prefix,
    shares="falling",
    queries="summed",
    adds_up=True,
    sink_tokens=1,
    recent_tokens=1,
    window="distance",
)
RELEASE = replace(
    PREFIXKV,
    name="prefixkv-release",
    summary="as PrefixKV's released code behaves, its positions and its deletion while decoding included",
    allocate=release,
    shares="final",
    positions="compressed",
    rounding="release",
)
