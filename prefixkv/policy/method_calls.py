"""The calls of a method's three functions. What one from outside the package returns is checked before it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from prefixkv.errors import PrefixKVError
from prefixkv.methods.evidence import Evidence
from prefixkv.methods.layers_read import LayersRead
from prefixkv.methods.method import Method
from prefixkv.policy.ranking import rank
from prefixkv.policy.selection import select


def score(method: Method, evidence: Evidence) -> torch.Tensor:
    """The importance of a layer's entries, as the method's `score` gives it.

    Args:
        method: does not keep everything.
        evidence: of the layer.

    Returns:
        (batch, heads, entries), float32; `heads` is 1 where a scorer does not tell heads apart.

    Raises:
        PrefixKVError: a function from outside the package fails or gives something else.
    """
    assert method.score is not None
    if not method.is_foreign:
        return method.score(evidence)
    scores = _called(method, method.score, evidence)
    batch, heads, entries, _ = evidence.keys.shape
    if not isinstance(scores, torch.Tensor) or scores.shape not in ((batch, heads, entries), (batch, 1, entries)):
        _refuse(method, f"must score {batch} x {heads} x {entries} entries", scores)
    if not scores.is_floating_point() or not bool(scores.isfinite().all()):
        _refuse(method, "must give finite floats as scores", scores)
    if method.shares != "known" and bool((scores < 0).any()):
        _refuse(method, "shares by what entries bear, so no score may be negative", scores)
    # It is added to in place.
    return scores.to(evidence.keys.device, torch.float32, copy=True)


def allocate(method: Method, read: LayersRead) -> list[int]:
    """The entries of each layer that has read, as the method's `allocate` gives them; a layer may have fewer.

    Raises:
        PrefixKVError: a function from outside the package fails or gives something else.
    """
    assert method.allocate is not None
    if not method.is_foreign:
        return list(method.allocate(read))
    counts = _called(method, _allocated, method.allocate, read)
    layers = len(read.ceilings)
    most = read.total if layers == read.layers else sum(read.ceilings)
    if len(counts) != layers or min(counts) < read.floor or sum(counts) > most:
        _refuse(method, f"must give each of {layers} layers {read.floor} entries or more, {most} together", counts)
    return counts


def choose(method: Method, importance: torch.Tensor, kept_len: int) -> torch.Tensor | None:
    """What a method keeps, where the number is known.

    Args:
        method: says what is protected and in which order entries are stored.
        importance: (batch, heads, seen_len), float.
        kept_len: entries to keep.

    Returns:
        (batch, heads, kept_len), int64, in the order of storage; None for everything in the order of the text.

    Raises:
        PrefixKVError: a function from outside the package fails or gives something else.
    """
    in_order = method.window == "least"
    if method.select is not None:
        return _selected(method, importance, kept_len, in_order)
    sinks, recent = method.sink_tokens, method.recent_len(kept_len)
    if in_order:
        return rank(importance, sinks, recent).order[..., :kept_len]
    return None if kept_len == importance.shape[-1] else select(importance, kept_len, sinks, recent)


def _selected(method: Method, importance: torch.Tensor, kept_len: int, in_order: bool) -> torch.Tensor:
    chosen = _called(method, method.select, importance, kept_len)
    shape = (*importance.shape[:2], kept_len)
    if not isinstance(chosen, torch.Tensor) or chosen.shape != shape or chosen.dtype != torch.int64:
        _refuse(method, f"must select {shape} entries as int64", chosen)
    ascending = chosen.sort(dim=-1).values
    is_doubled = kept_len > 1 and bool((ascending.diff(dim=-1) == 0).any())
    if is_doubled or int(ascending.min()) < 0 or int(ascending.max()) >= importance.shape[-1]:
        _refuse(method, f"must select different ones of {importance.shape[-1]} entries", chosen)
    return chosen if in_order else ascending


def _allocated(function: Callable[[LayersRead], Sequence[int]], read: LayersRead) -> list[int]:
    return [int(count) for count in function(read)]


def _called(method: Method, function: Callable[..., Any] | None, *arguments: Any) -> Any:
    assert function is not None
    try:
        return function(*arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the method's own code raises
        raise PrefixKVError(f"method {method.name!r} fails: {type(error).__name__}: {error}") from error


def _refuse(method: Method, wanted: str, given: object) -> NoReturn:
    shown = f"{tuple(given.shape)} {given.dtype}" if isinstance(given, torch.Tensor) else repr(given)[:200]
    raise PrefixKVError(f"method {method.name!r} {wanted}, and gives {shown}")
