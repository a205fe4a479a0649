"""What a server counts, in Prometheus' text format. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from prefixkv.engine.engine import Engine
    from prefixkv.engine.stream import Stream

FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)


class Metrics:
    """Counters that requests raise, and gauges that ask the engine when they are read."""

    def __init__(self, engine: Engine, being_read: Callable[[], int]) -> None:
        """Count for one engine.

        Args:
            engine: the server's.
            being_read: tells how many requests are made into prompts now.
        """
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
        for name, text, ask in (
            ("requests_running", "Requests that are decoded.", lambda: engine.running),
            ("requests_waiting", "Requests that wait.", lambda: engine.waiting + being_read()),
            ("memory_bytes", "That may be reserved.", lambda: engine.memory_bytes),
            ("reserved_bytes", "That are reserved, kept caches among them.", lambda: engine.reserved_bytes),
            ("used_bytes", "That running requests' entries take.", lambda: engine.used_bytes),
            ("kept_caches", "Caches that conversations may go on from.", lambda: len(engine.kept)),
            ("kept_cache_bytes", "That these take.", lambda: engine.kept.bytes),
            ("shared_prompts", "Prompts that began with pictures read for several.", lambda: engine.prefixes.shared),
        ):
            Gauge(f"prefixkv_{name}", text, registry=self._registry).set_function(ask)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"prefixkv_{name}", text, registry=self._registry)

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
        """All of them."""
        return generate_latest(self._registry)
