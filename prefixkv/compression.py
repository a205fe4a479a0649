"""The library's front door: a model whose KV cache is compressed for as long as a `with` lasts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from transformers import PreTrainedModel

from prefixkv.cache import attention
from prefixkv.cache.installations import shared
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.engine.generate_steps import generate_steps
from prefixkv.methods.method import Method
from prefixkv.methods.table import DEFAULT_METHOD
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, Codec
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.guidance import make_cache


@contextlib.contextmanager
def compress(
    model: PreTrainedModel,
    budget: str | float | Budget | PrefixConfig = "20%",
    method: str | Method = DEFAULT_METHOD,
    codec: str | Codec = DEFAULT_CODEC,
) -> Iterator[PrefixKVCache]:
    """Compress the KV cache of everything that runs inside the `with`.

    Args:
        model: a language or vision-language model of transformers.
        budget: `"20%"`, `0.2`, `"512MiB"`, `"4GB"` or `"300tok"`: what to keep; or a configuration, which brings its
            own budget, shares, method and codec.
        method: name of a method, see `prefixkv.methods.table.METHODS`; not used with a configuration. `guided` uses
            the profile that was saved for the model's hub id or folder, and warns where there is none.
        codec: in which precision entries are stored, see `prefixkv.policy.codec.CODECS`: any, with any method; not used
            with a configuration.

    Yields:
        An empty cache, to be passed to `generate` or to the model, for one conversation or one batch of them, padded on
        the left. `**cache.argument` passes it under the name that the installed transformers has for it: `cache` since
        5.24, `past_key_values` before.

    Raises:
        OptionError: unknown method, budget or codec, or a codec that cannot store the model's vectors.
        BudgetTooSmallError: when a hard limit cannot hold the method's protected entries.
        PrefixKVError: when the model cannot be compressed.

    Example:
        ```python
        with prefixkv.compress(model, budget="20%") as cache:
            tokens = model.generate(**inputs, **cache.argument, max_new_tokens=100)
        ```
    """
    cache = make_cache(model, ModelIdentity.of_model(model), budget, method, _warn, codec)
    with attention.installed(model), shared(model, generate_steps):
        yield cache


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
