"""What an engine is doing at one moment, in plain numbers. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefixkv.engine.worker import Worker


@dataclass(frozen=True)
class Counts:
    """Requests and bytes.

    Attributes:
        running: requests that take steps.
        waiting: requests that were not read yet.
        memory_bytes: that may be reserved for the caches of all requests.
        reserved_bytes: that are, kept caches among them.
        used_bytes: of the entries that running requests hold, as they were a moment ago.
        kept_caches: caches that later prompts may go on from.
        kept_cache_bytes: that these take.
        shared_prompts: prompts so far that began with what was read for several.
    """

    running: int
    waiting: int
    memory_bytes: int
    reserved_bytes: int
    used_bytes: int
    kept_caches: int
    kept_cache_bytes: int
    shared_prompts: int

    @classmethod
    def of(cls, worker: Worker) -> Counts:
        """Those of a worker whose lock is held."""
        scheduler, kept = worker.scheduler, worker.kept
        requests, ledger = (len(scheduler.running), len(scheduler.waiting)), scheduler.ledger
        sizes = ledger.memory_bytes, ledger.reserved_bytes, worker.used_bytes
        return cls(*requests, *sizes, len(kept), kept.bytes, worker.prefixes.shared)
