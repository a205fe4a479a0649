"""Stock `generate` on the captured step: passes over one token of each row are replays, all others the model's own."""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.engine import captured_rows
from prefixkv.engine.captured_rows import CapturedRows
from prefixkv.engine.stepper import tell_once
from prefixkv.kernels.dispatch import plain_path_is_wanted
from prefixkv.transformers_compat import cache_argument, cache_in

UNDERSTOOD = {
    "input_ids",
    "attention_mask",
    "position_ids",
    "cache_position",
    "cache",
    "past_key_values",
    "use_cache",
    "logits_to_keep",
    "return_dict",
    "mm_token_type_ids",
    "token_type_ids",
}
"""Arguments of a forward pass that say nothing new of a single token behind a prompt, or nothing that matters."""


class GenerateSteps:
    """Stands for a model's forward pass while its caches are compressed."""

    def __init__(self, model: Any) -> None:
        """Take the model's own forward pass along.

        Args:
            model: its outermost module.
        """
        self._model = weakref.ref(model)
        self._plain = model.forward
        self._rows: weakref.WeakKeyDictionary[PrefixKVCache, CapturedRows] = weakref.WeakKeyDictionary()
        self._output: type[Any] | None = None
        # `generate` asks which arguments the forward pass takes.
        functools.update_wrapper(self, model.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output: of a single-token pass its logits, (rows, 1, vocabulary), and the cache."""
        cache = cache_in(kwargs)
        if args or not isinstance(cache, PrefixKVCache):
            return self._plain(*args, **kwargs)
        if self._output is None or not self._covers(cache, kwargs):
            output = self._plain(*args, **kwargs)
            if isinstance(output, Mapping):
                self._output = type(output)
            return output
        try:
            rows = self._joined(cache)
        except NotCapturableError as error:
            tell_once(self._model(), str(error), warnings.warn)
            return self._plain(*args, **kwargs)
        logits = rows.advance(kwargs["input_ids"][:, 0])
        cache.count_step()
        return self._output(logits=logits[:, None].to(self._model().dtype), **cache_argument(cache))  # type: ignore[union-attr]

    def _covers(self, cache: PrefixKVCache, arguments: Mapping[str, Any]) -> bool:
        """Whether a pass reads one token of each row, and asks for nothing but logits."""
        ids = arguments.get("input_ids")
        return (
            not torch.compiler.is_compiling()
            and ids is not None
            and ids.shape == (len(cache.rows), 1)
            and all(row.seen_tokens for row in cache.rows)
            and not torch.is_grad_enabled()
            and not self._model().training  # type: ignore[union-attr]
            and not torch.is_autocast_enabled(ids.device.type)
            and arguments.get("use_cache") is not False
            and arguments.get("return_dict") is not False
            and all(value is None or value is False for name, value in arguments.items() if name not in UNDERSTOOD)
        )

    def _joined(self, cache: PrefixKVCache) -> CapturedRows:
        rows = self._rows.get(cache)
        if rows is None or rows.rows != cache.rows:
            rows = CapturedRows(self._model(), len(cache.rows))
            for place, row in enumerate(cache.rows):
                rows.join(place, row)
            self._rows[cache] = rows
        return rows


@contextlib.contextmanager
def generate_steps(model: Any) -> Iterator[None]:
    """Have single-token passes of a model on a CUDA device replay the captured step while the `with` lasts.

    PREFIXKV_CAPTURE=0 in the environment leaves them to transformers.

    Args:
        model: a language or vision-language model of transformers.
    """
    if captured_rows.device_obstacle(model.device) is not None or plain_path_is_wanted():
        yield
        return
    before = vars(model).get("forward")
    model.forward = GenerateSteps(model)
    try:
        yield
    finally:
        if before is None:
            del model.forward
        else:
            model.forward = before
