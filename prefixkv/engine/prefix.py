"""Prefixes: what several requests that wait begin with, the same pictures first, is read once and kept uncompressed.

Each of them then reads the rest of its own prompt behind it, and scores and compacts a copy of its own: its answer is
the one that it gives alone. A prefix is there while a request waits that begins with it, and goes where its bytes keep
the first that waits from beginning.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.prefix_entries import PrefixEntries, PrefixRow, most_queries
from prefixkv.cache.row import CacheRow
from prefixkv.engine.admission import Ledger
from prefixkv.engine.host_inputs import read_from_host
from prefixkv.engine.request import Request
from prefixkv.transformers_compat import picture_token_ids, setting


@dataclass(frozen=True)
class SharedPart:
    """The part of a prompt that may be shared: all up to its last picture.

    Attributes:
        key: the same for equal parts that are read for the same scorers' sake; of no others.
        tokens: its length.
        most_queries: last queries that the request's scorer looks at; None for all.
        layers: that are compressed.
        layer_bytes: that it takes in each of them when it is read.
        left_bytes: that it takes in the layers which are left alone.
    """

    key: str
    tokens: int
    most_queries: int | None
    layers: int
    layer_bytes: int
    left_bytes: int

    @property
    def bytes(self) -> int:
        """That it takes when it is read."""
        return self.layers * self.layer_bytes + self.left_bytes

    @classmethod
    def of(
        cls, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], row: CacheRow, owner: str = ""
    ) -> SharedPart | None:
        """Find it.

        Args:
            model: that will read it.
            inputs: of the whole prompt, `input_ids` (1, tokens) among them.
            row: where the prompt will be read.
            owner: whose it is: nothing is shared with another's.

        Returns:
            None where there is no picture, no token behind the last one, or nothing can be read apart.
        """
        ids = inputs["input_ids"]
        pictures = torch.isin(ids[0], ids.new_tensor(picture_token_ids(model.config))).nonzero()
        tokens = int(pictures[-1]) + 1 if len(pictures) else 0
        if not 0 < tokens < ids.shape[1] or _sees_later(inputs):
            return None
        own, count = hashlib.sha256(), most_queries(row)
        for name, value in sorted(cut(inputs, 0, tokens).items()):
            own.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            own.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        geometry = row.geometry
        text = model.config.get_text_config(decoder=True)
        size = geometry.head_dim * getattr(torch, geometry.dtype).itemsize
        queries = setting(text, "num_attention_heads") * size * (tokens if count is None else min(count, tokens))
        return cls(
            f"{own.hexdigest()} {count} {owner}",
            tokens,
            count,
            geometry.layers,
            tokens * geometry.entry_bytes + queries,
            geometry.left_bytes,
        )


def cut(inputs: Mapping[str, torch.Tensor], start: int, end: int | None = None) -> dict[str, Any]:
    """The inputs of a part of a prompt, which has all pictures or, where it does not begin the prompt, none.

    Args:
        inputs: of the whole.
        start: first token.
        end: token behind the last; None for all that follow.
    """
    shape = inputs["input_ids"].shape
    part = {name: value[:, start:end] for name, value in inputs.items() if value.shape == shape}
    return part if start else dict(inputs) | part


class Prefixes:
    """The prefixes that are there. All but `entries` is called under the lock of the turns.

    Where two threads read, `is_awaited` keeps them from reading the same prefix, and nothing frees one in use.

    Attributes:
        bytes: that they take, as reserved.
        most_bytes: that they ever took.
        read: prefixes that were read.
        shared: prompts that began with one.
    """

    def __init__(self, model: PreTrainedModel, ledger: Ledger) -> None:
        self._model, self._ledger = model, ledger
        self._held: dict[str, PrefixEntries | None] = {}
        self._bytes: dict[str, int] = {}
        self.most_bytes = self.read = self.shared = 0

    @property
    def bytes(self) -> int:
        """That they take, as reserved."""
        return sum(self._bytes.values())

    def settle(self, waiting: Iterable[Request], reading: Collection[Request] = ()) -> None:
        """Free what no waiting request begins with, and what keeps the first from beginning.

        Args:
            waiting: the requests that wait, the oldest first.
            reading: those whose prompts are read now.
        """
        if not self._held:
            return
        requests = list(waiting)
        used, wanted = _keys(reading), _keys(requests)
        self._free([key for key in self._held if key not in used | wanted])
        if not requests or self._ledger.fits(requests[0].footprint):
            return
        if self._ledger.fits(requests[0].footprint, without=self._held.keys() - used):
            self._free(self._held.keys() - used - _keys(requests[:1]))
            if not self._ledger.fits(requests[0].footprint):
                self.clear(reading)

    def is_awaited(self, waiting: Iterable[Request], reading: Iterable[Request]) -> bool:
        """Whether the first that waits begins with what another is reading just now; as for `settle`."""
        wanted = _keys(itertools.islice(waiting, 1)) & _keys(reading)
        return any(key in self._held and self._held[key] is None for key in wanted)

    def offer(self, request: Request, waiting: Iterable[Request]) -> bool:
        """Whether a request that begins takes its prefix from here; what is to be read for it is reserved.

        Args:
            request: admitted.
            waiting: the requests that wait.
        """
        part = request.shared
        if part is None:
            return False
        if part.key not in self._held:
            others = any(other.shared is not None and other.shared.key == part.key for other in waiting)
            amounts = self._ledger.spread(part.layers, part.layer_bytes, part.left_bytes)
            if not others or not self._ledger.has_room(amounts):
                return False
            self._ledger.hold(part.key, amounts)
            self._held[part.key], self._bytes[part.key] = None, sum(amounts)
            self.most_bytes = max(self.most_bytes, self.bytes)
        self.shared += 1
        return True

    def entries(self, request: Request) -> PrefixEntries:
        """A request's prefix, which `offer` has promised; it is read where it is not there.

        Args:
            request: its model is inside `prefixkv.cache.attention.installed`.
        """
        part = request.shared
        assert part is not None
        found = self._held[part.key]
        if found is None:
            row = PrefixRow(request.row.geometry, part.most_queries)
            cache = PrefixKVCache.of_rows([row])
            read_from_host(self._model, cut(request.inputs, 0, part.tokens), cache)
            found = self._held[part.key] = row.as_prefix()
            self.read += 1
        return found

    def clear(self, reading: Iterable[Request] = ()) -> None:
        """Free all but what those need whose prompts are read now."""
        self._free(self._held.keys() - _keys(reading))

    def _free(self, keys: Iterable[str]) -> None:
        for key in keys:
            del self._held[key], self._bytes[key]
            self._ledger.end(key)


def _keys(requests: Iterable[Request]) -> set[str]:
    return {request.shared.key for request in requests if request.shared is not None}


def _sees_later(inputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether tokens may see later ones, so that no part of a prompt can be read alone.

    A model is told the kinds of tokens for this, or, where it is told the grids of its pictures, for their positions.
    """
    has_grids = any(name.endswith("_grid_thw") for name in inputs)
    return "token_type_ids" in inputs or ("mm_token_type_ids" in inputs and not has_grids)
