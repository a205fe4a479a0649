"""What a server counts, in Prometheus' text format. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from prefixkv.engine.counts import Counts
    from prefixkv.engine.stream import Stream

FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)


class Metrics:
    """Counters that requests raise, and gauges that are set to what the engine counts when they are read."""

    def __init__(self, counts: Callable[[], Counts], being_read: Callable[[], int]) -> None:
        """Count for one engine.

        Args:
            counts: of the engine; may have to wait for it.
            being_read: tells how many requests are made into prompts now.
        """
        self._counts, self._being_read = counts, being_read
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "prefixkv_requests", "Requests that have ended, by status.", ["status"], registry=self._registry
        )
        self._hung_up = self._counter("cancelled", "Requests whose client went away.")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._cached = self._counter("cached_tokens", "Of these, tokens that a kept cache had read already.")
        self._generated = self._counter("generation_tokens", "Tokens of answers.")
        self._read = self._counter("entries_read", "Entries of all layers that ended requests have read.")
        self._kept = self._counter("entries_kept", "Of these, entries that they kept.")
        self._first = self._histogram("time_to_first_token", "From asking to the first token.", FIRST_TOKEN_SECONDS)
        self._each = self._histogram("time_per_output_token", "From one token to the next.", TOKEN_SECONDS)
        self._running = self._gauge("requests_running", "Requests that are decoded.")
        self._waiting = self._gauge("requests_waiting", "Requests that wait.")
        self._memory = self._gauge("memory_bytes", "That may be reserved.")
        self._reserved = self._gauge("reserved_bytes", "That are reserved, kept caches among them.")
        self._used = self._gauge("used_bytes", "That running requests' entries take.")
        self._caches = self._gauge("kept_caches", "Caches that conversations may go on from.")
        self._cache_bytes = self._gauge("kept_cache_bytes", "That these take.")
        self._shared = self._gauge("shared_prompts", "Prompts that began with pictures read for several.")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"prefixkv_{name}", text, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"prefixkv_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"prefixkv_{name}_seconds", text, buckets=buckets, registry=self._registry)

    def count(self, status: int) -> None:
        """A request has ended."""
        self._requests.labels(str(status)).inc()

    def count_stream(self, stream: Stream) -> None:
        """An answer has ended, whoever has read it."""
        self._prompt.inc(stream.prompt_tokens)
        self._cached.inc(stream.cached_tokens)
        self._generated.inc(len(stream.times))
        if stream.is_cancelled:
            self._hung_up.inc()
        if stream.usage is not None:
            self._read.inc(sum(layer.seen_tokens for layer in stream.usage.layers))
            self._kept.inc(sum(layer.kept_tokens for layer in stream.usage.layers))
        before = stream.submitted_at
        for number, now in enumerate(stream.times):
            (self._each if number else self._first).observe(now - before)
            before = now

    def text(self) -> bytes:
        """All of them.

        Raises:
            PrefixKVError: the engine has ended.
        """
        counts = self._counts()
        self._running.set(counts.running)
        self._waiting.set(counts.waiting + self._being_read())
        self._memory.set(counts.memory_bytes)
        self._reserved.set(counts.reserved_bytes)
        self._used.set(counts.used_bytes)
        self._caches.set(counts.kept_caches)
        self._cache_bytes.set(counts.kept_cache_bytes)
        self._shared.set(counts.shared_prompts)
        return generate_latest(self._registry)
