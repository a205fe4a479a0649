"""What differs between versions of transformers, or is no documented part of it, in one place.

Tested with transformers 5.17 and 5.24. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prefixkv.errors import PrefixKVError


@functools.cache
def _cache_argument_name() -> str:
    """The name of the cache among the arguments of `generate` and of every model: `cache` since transformers 5.24."""
    from transformers import GenerationMixin

    known = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    return "cache" if "cache" in known else "past_key_values"


def cache_argument(cache: Any) -> dict[str, Any]:
    """The keyword argument that hands a cache to `generate` or to a model: `model(**inputs, **cache_argument(cache))`.

    Args:
        cache: a compressed one or one of transformers' own.

    Returns:
        `{"cache": cache}`, or `{"past_key_values": cache}` for a transformers before 5.24.
    """
    return {_cache_argument_name(): cache}


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a model or of one of its layers, or a model's output; None if none."""
    return arguments["cache"] if "cache" in arguments else arguments.get("past_key_values")


@contextlib.contextmanager
def chosen_attention(
    model: Any, name: str, attend: Callable[..., Any], make_mask: Callable[..., Any]
) -> Iterator[None]:
    """Have the text part of a model run its attention through a function; what was chosen before comes back.

    The part is chosen by its own module, so that it does not matter how deep in the model it is: an omni model has it
    at `thinker_config.text_config`, which a dictionary for `set_attn_implementation` reaches in some versions only.

    Args:
        model: a language or vision-language model of transformers.
        name: of the attention implementation, in transformers' tables.
        attend: called as an attention function of transformers' AttentionInterface.
        make_mask: called as a mask function of transformers' AttentionMaskInterface.

    Raises:
        PrefixKVError: the model does not let its attention be chosen.
    """
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, make_mask)
    config = model.config.get_text_config(decoder=True)
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel) and part.config is config)
    part, before = next(parts, None), config._attn_implementation
    if part is not None:
        part.set_attn_implementation(name)
    if part is None or config._attn_implementation != name:
        raise PrefixKVError(f"{type(model).__name__} does not let its attention be chosen: it cannot be compressed")
    try:
        yield
    finally:
        part.set_attn_implementation(before)
