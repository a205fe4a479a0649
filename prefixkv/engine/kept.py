"""Kept caches: what a request has read and said stays when its answer has ended, for a prompt that goes on from it.

A prompt goes on from a cache whose owner, budget, method and codec are its own, which has read all of its turns but the
last, token for token and with the same pictures. The least recently used cache goes first.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prefixkv.cache.row import CacheRow
from prefixkv.cache.row_usage import allocated_by_device
from prefixkv.cache.snapshot import CacheSnapshot
from prefixkv.engine.admission import Ledger
from prefixkv.inputs.prompts import Prompt

if TYPE_CHECKING:
    from prefixkv.engine.request import Request

KEPT_SHARE = 2
"""Kept caches take one part in so many of the memory at most: what begins has the rest."""


@dataclass(frozen=True, eq=False)
class CacheName:
    """By what the cache of a request is found again.

    Attributes:
        rule: whose it is, and how it is kept; equal for caches of one owner, budget, method and codec.
        turns: questions of the prompt.
        pictures: digest of each of its pictures, in order.
        ids: (tokens,), int64: of the prompt.
    """

    rule: tuple[Any, ...]
    turns: int
    pictures: tuple[bytes, ...]
    ids: torch.Tensor

    @classmethod
    def of(cls, prompt: Prompt, owner: str, row: CacheRow) -> CacheName:
        """The name of what a row will hold.

        Args:
            prompt: the whole conversation.
            owner: whose it is.
            row: where it will be read.
        """
        budget, shares = row.budget, tuple(row.keep_fractions or ())
        is_profiled = row.look_ahead is not None and row.look_ahead.is_recorded
        rule = owner, budget.kind, budget.amount, row.method, row.codec.name, shares, is_profiled
        return cls(rule, len(prompt.turns), prompt.picture_digests, prompt.inputs["input_ids"][0])

    def follows(self, earlier: KeptCache) -> bool:
        """Whether a prompt of this name goes on from what a cache has read."""
        name, count = earlier.name, len(earlier.name.ids)
        return (
            name.turns == self.turns - 1
            and name.rule == self.rule
            and name.pictures == self.pictures[: len(name.pictures)]
            and count < len(self.ids)
            and torch.equal(name.ids, self.ids[:count])
        )


@dataclass(frozen=True)
class KeptCache:
    """One cache.

    Attributes:
        name: its ids are all that was read, of the prompt and of the answer.
        snapshot: the entries; only ever read from.
        by_device: bytes that its tensors take, by the name of the device where they are.
    """

    name: CacheName
    snapshot: CacheSnapshot
    by_device: Mapping[str, int]

    def key(self) -> str:
        """The same for caches that have read the same under the same rule."""
        content = hashlib.sha256(self.name.ids.numpy().data)
        content.update(b"".join(self.name.pictures) + repr(self.name.rule).encode())
        return f"kept {content.hexdigest()}"


class KeptCaches:
    """The caches that are there. All is called under the worker's lock, or by its thread.

    Attributes:
        continued: prompts that went on from one.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: OrderedDict[str, KeptCache] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self.continued = 0

    @property
    def bytes(self) -> int:
        """That they take, as reserved."""
        return sum(self._bytes.values())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._held)

    def find(self, name: CacheName) -> KeptCache | None:
        """The longest cache that a prompt goes on from; it is used now. None where there is none."""
        found = [(len(kept.name.ids), key) for key, kept in self._held.items() if name.follows(kept)]
        if not found:
            return None
        _, key = max(found)
        self._held.move_to_end(key)
        self.continued += 1
        return self._held[key]

    def keep(self, kept: KeptCache) -> None:
        """Take a cache in, whose bytes nobody has reserved, and let others go for it; without room it goes itself."""
        key = kept.key()
        self._free([key])
        amounts = self._ledger.amounts(kept.by_device)
        count, most = sum(amounts), self._ledger.memory_bytes // KEPT_SHARE
        while self._held and (self.bytes + count > most or not self._ledger.has_room(amounts)):
            self._free([next(iter(self._held))])
        if count <= most and self._ledger.has_room(amounts):
            self._ledger.hold(key, amounts)
            self._held[key], self._bytes[key] = kept, count

    def settle(self, waiting: Sequence[Request]) -> None:
        """Free what keeps the first that waits from beginning, the least recently used first.

        Args:
            waiting: the requests that wait, the oldest first.
        """
        while self._held and waiting and not self._ledger.fits(waiting[0].footprint):
            self._free([next(iter(self._held))])

    def clear(self) -> None:
        """Free all."""
        self._free(list(self._held))

    def _free(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._held.pop(key, None) is not None:
                del self._bytes[key]
                self._ledger.end(key)


def kept_cache(name: CacheName, row: CacheRow, tokens: Sequence[int]) -> KeptCache:
    """What a row holds when its answer has ended, without copying it.

    Args:
        name: of the request.
        row: is reset next: nothing is written to its buffers any more.
        tokens: of the answer; those at its end may not have been read.
    """
    said = torch.tensor(list(itertools.islice(tokens, row.seen_tokens - len(name.ids))), dtype=torch.int64)
    ids = torch.cat([name.ids.cpu(), said])
    whole = CacheName(name.rule, name.turns, name.pictures, ids)
    by_device = allocated_by_device(row)
    by_device[str(ids.device)] = by_device.get(str(ids.device), 0) + ids.nbytes
    return KeptCache(whole, CacheSnapshot.take(row, copied=False), by_device)
