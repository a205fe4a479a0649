"""The results of a benchmark: plain numbers, one record for each cell. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One way of running one load, measured in a fresh state.

    Attributes:
        engine: `prefixkv`; or `transformers` for stock generate with a full cache, `transformers-static` for a
            compiled static one.
        budget: what was kept, as the user wrote it; `100%` for stock.
        method: name of the method; None for stock.
        context_tokens: tokens of a row's prompt.
        batch: rows.
        new_tokens: tokens generated for each row.
        path: `captured` or `plain` decoding, or `generate`, `chat` or `batch` where whole answers of these were
            measured.
        prefill_ms: median time of reading the prompt, scoring and compaction included.
        step_ms: median time of a decode step, the tokens' arrival on the host included.
        first_step_ms: time of the first step, its capture included.
        tokens_per_second: of all rows, after the first token.
        kv_bytes: bytes of the entries stored at the end.
        prefill_peak_bytes: most memory above the weights while the prompt is read; None where the device does not say.
        peak_bytes: the same of the whole run.
        roofline_ms: a step that did nothing but read weights and entries, at copy bandwidth.
        look_ahead_queries: random queries of each layer and head that stand for a profile's; 0 without, None where the
            method does not use any.
        codec: in which precision entries are stored; None for stock.
        failure: why there are no numbers: `out of memory`; None where there are.
    """

    engine: str
    budget: str
    method: str | None
    context_tokens: int
    batch: int
    new_tokens: int
    path: str | None = None
    prefill_ms: float | None = None
    step_ms: float | None = None
    first_step_ms: float | None = None
    tokens_per_second: float | None = None
    kv_bytes: int | None = None
    prefill_peak_bytes: int | None = None
    peak_bytes: int | None = None
    roofline_ms: float | None = None
    look_ahead_queries: int | None = None
    codec: str | None = None
    failure: str | None = None

    @property
    def roofline_share(self) -> float | None:
        """Share of the roofline that a step reaches, 1 at best."""
        return self.roofline_ms / self.step_ms if self.roofline_ms and self.step_ms else None

    def as_dict(self) -> dict[str, Any]:
        """The fields and the share as plain values, for JSON."""
        return {**asdict(self), "roofline_share": self.roofline_share}
