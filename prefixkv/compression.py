"""The library's front door: a model whose KV cache is compressed for as long as a `with` lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedModel

from prefixkv import attention
from prefixkv.budget import Budget
from prefixkv.cache import PrefixKVCache
from prefixkv.config import PrefixConfig
from prefixkv.identity import ModelIdentity
from prefixkv.methods import DEFAULT_METHOD, Method


@contextlib.contextmanager
def compress(
    model: PreTrainedModel, budget: str | float | Budget | PrefixConfig = "20%", method: str | Method = DEFAULT_METHOD
) -> Iterator[PrefixKVCache]:
    """Compress the KV cache of everything that runs inside the `with`.

    Args:
        model: a language or vision-language model of transformers.
        budget: `"20%"`, `0.2`, `"512MiB"`, `"4GB"` or `"300tok"`: what to keep; or a configuration, which brings its
            own budget, shares and method.
        method: name of a method, see `prefixkv.methods.METHODS`; not used with a configuration.

    Yields:
        An empty cache, to be passed as `past_key_values` to `generate` or to the model, for one conversation.

    Raises:
        OptionError: unknown method or budget.
        BudgetTooSmallError: when a hard limit cannot hold the method's protected entries.
        PrefixKVError: when the model cannot be compressed.

    Example:
        ```python
        with prefixkv.compress(model, budget="20%") as cache:
            tokens = model.generate(**inputs, past_key_values=cache, max_new_tokens=100)
        ```
    """
    identity = ModelIdentity.of(type(model).__name__, model.config, str(model.dtype).removeprefix("torch."))
    if isinstance(budget, PrefixConfig):
        budget.require_model(identity)
        cache = PrefixKVCache(identity.geometry, budget.as_budget(), budget.method, budget.keep_fractions)
    else:
        cache = PrefixKVCache(identity.geometry, budget, method)
    with attention.installed(model):
        yield cache
