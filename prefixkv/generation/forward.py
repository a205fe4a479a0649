"""Forward passes of transformers that read into a compressed cache: a prompt, or one token of each row."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.reading_graphs import replayed_parts
from prefixkv.errors import PrefixKVError
from prefixkv.transformers_compat import cache_argument, first_position


@contextlib.contextmanager
def picture_errors(inputs: Mapping[str, Any]) -> Iterator[None]:
    """Where the model does not take pictures as its processor has made them, say so.

    Args:
        inputs: of the model, which reads them inside.

    Raises:
        PrefixKVError: it does not.
    """
    try:
        yield
    except ValueError as error:
        if not any(torch.is_tensor(value) and value.is_floating_point() for value in inputs.values()):
            raise
        raise PrefixKVError(
            "the model does not take the pictures as its processor has made them "
            f"({' '.join(str(error).split())[:200]}): its processor's files are another model's, or config.json is"
        ) from error


def read_prompt(model: PreTrainedModel, inputs: Mapping[str, Any], cache: Any) -> torch.Tensor:
    """Read prompts; no gradients are kept.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        inputs: the model's inputs, `input_ids` (batch, new_len) among them.
        cache: of transformers, that takes them in.

    Returns:
        Logits of the token behind them, (batch, vocabulary), float32.

    Raises:
        PrefixKVError: the model does not take the pictures.
    """
    options = {**cache_argument(cache), "use_cache": True, "logits_to_keep": 1}
    with torch.no_grad(), picture_errors(inputs), replayed_parts(model):
        output = model(**inputs, **options)
        return output.logits[:, -1].float()


def are_numbers(model: PreTrainedModel, logits: torch.Tensor) -> torch.Tensor:
    """Whether what a model says are numbers, (), bool, on its device, which is not waited for.

    Args:
        model: whose own settings may ask for others to be replaced (`remove_invalid_values`).
        logits: (batch, vocabulary); minus infinity is a number that a model never chooses.
    """
    if getattr(model.generation_config, "remove_invalid_values", None):
        return logits.new_ones((), dtype=torch.bool)
    return (logits < math.inf).all()


def refuse_no_numbers(are_there: bool) -> None:
    """Refuse what a model says whose numbers have overflowed.

    Args:
        are_there: what `are_numbers` has said.

    Raises:
        PrefixKVError: one is NaN or infinite.
    """
    if not are_there:
        raise PrefixKVError("what the model says is not a number (NaN): try --dtype float32, or another model")


def read_tokens(model: PreTrainedModel, cache: PrefixKVCache, tokens: torch.Tensor) -> torch.Tensor:
    """Read a token of each row; no gradients are kept.

    Args:
        model: inside `prefixkv.cache.attention.installed`.
        cache: has read a prompt in every row, which may differ in length.
        tokens: (batch,), int64.

    Returns:
        Logits of the next token, (batch, vocabulary), float32.
    """
    options: dict[str, Any] = {}
    if cache.next_positions is None:
        # Where positions have several axes they follow from what the rows have read (`prefixkv.cache.positions`).
        first = first_position(model.config)
        positions = [first + row.seen_tokens for row in cache.rows]
        options["position_ids"] = torch.tensor(positions, device=tokens.device)[:, None]
    with torch.no_grad():
        output = model(input_ids=tokens[:, None], **cache_argument(cache), use_cache=True, logits_to_keep=1, **options)
    return output.logits[:, -1].float()
