"""Reading: one prompt, by one forward pass, into its row, which then has room for the whole answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.prefix_entries import PrefixEntries
from prefixkv.engine.host_inputs import read_from_host
from prefixkv.engine.kept import KeptCache
from prefixkv.engine.memory import told
from prefixkv.engine.prefix import Prefixes, cut
from prefixkv.engine.request import Request
from prefixkv.engine.trace import Trace
from prefixkv.generation.choice import RowChoice
from prefixkv.generation.forward import are_numbers, refuse_no_numbers
from prefixkv.generation.logprobs import Logprobs, LogprobTensors
from prefixkv.kernels.sending import Fetching

Outcome = tuple[int, Logprobs | None] | Exception
"""Of reading a prompt: the answer's first token, and how likely it was where that was asked for; or what went wrong."""


@dataclass(frozen=True)
class Unread:
    """A prompt that is to be read now.

    Attributes:
        request: whose it is.
        prefixes: where its first part is taken from; None where that is read with the rest.
        earlier: the cache that it goes on from; None for none.
    """

    request: Request
    prefixes: Prefixes | None
    earlier: KeptCache | None

    def outcome(
        self, model: PreTrainedModel, ahead: int, trace: Trace, queued: Callable[[], None] = lambda: None
    ) -> Outcome:
        """Read it, whatever comes of it; `read` says what it is given."""
        request, prefixes = self.request, self.prefixes
        has_prefix = prefixes is not None
        with trace.span("read", request=request.number, tokens=request.prompt_tokens, shared=has_prefix):
            try:
                prefix = None if prefixes is None else prefixes.entries(request)
                return read(model, request, ahead, prefix, self.earlier, queued)
            except Exception as error:  # whatever it is, it is this request's own
                return told(error, model.device)


def read(
    model: PreTrainedModel,
    request: Request,
    ahead: int,
    prefix: PrefixEntries | None = None,
    earlier: KeptCache | None = None,
    queued: Callable[[], None] = lambda: None,
) -> tuple[int, Logprobs | None]:
    """Read a request's prompt: score, choose and store, layer by layer.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        request: its row is empty; its inputs are freed.
        ahead: tokens that may be read beyond its longest answer.
        prefix: what its prompt begins with, where that was read; else None.
        earlier: the cache that it goes on from; None for none.
        queued: called when all of it is queued, before a GPU is waited for; may queue more.

    Returns:
        The answer's first token, and how likely it was where that was asked for.

    Raises:
        PrefixKVError: the model does not take the pictures, or what it says are no numbers.
    """
    inputs = None if earlier is None else _continued(request, earlier)
    if prefix is not None:
        inputs = cut(request.inputs, prefix.tokens)
        prefix.begin(request.row)
    logits = read_from_host(model, inputs or request.inputs, PrefixKVCache.of_rows([request.row]))
    request.inputs, request.prompt = {}, None
    sampling = request.sampling
    request.row.reserve(sampling.max_new_tokens - 1 + ahead)
    choice = RowChoice(1, logits.device)
    choice.set(0, sampling, 0, request.shaping)
    token = choice(logits, [0])
    # Neither is waited for together with what is queued behind it.
    found = Fetching(torch.stack([token[0], are_numbers(model, logits).long()]))
    queued()
    number, are_there = found.host.tolist()
    refuse_no_numbers(bool(are_there))
    scored = None if sampling.logprobs is None else LogprobTensors.of(logits[0], token, sampling.logprobs).fetched()
    return number, scored


def _continued(request: Request, earlier: KeptCache) -> dict[str, Any] | None:
    """Have the row hold what an earlier prompt and its answer have left, and give the inputs of what follows.

    Returns:
        None where the pictures that were read cannot be told from those that were not; the row is empty then.
    """
    assert request.prompt is not None
    rest = request.prompt.after(earlier.name.ids.tolist(), len(earlier.name.pictures))
    if rest is None:
        return None
    # Each layer onto the device on which it computes, of several.
    earlier.snapshot.restore(request.row, None)
    request.stream.cached_tokens = len(earlier.name.ids)
    return rest
