"""Scorers: pure functions that say how much every cached entry matters (float32, higher = keep).

A scorer sees one layer's evidence and returns `(batch, kv_heads, key_len)`. Knows nothing of budgets or caches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from prefixkv.kernels.dispatch import attention_mass, attention_peak
from prefixkv.kernels.row_mass import row_mass

WINDOW = 64
"""Most queries at the end of a chunk that speak for what will be asked next (SnapKV's observation window)."""
POOL = 5
"""Entries over which SnapKV averages."""


@dataclass(frozen=True)
class Evidence:
    """What one layer knows about its entries when a chunk has attended.

    Attributes:
        queries: (batch, query_heads, query_len, head_dim), after RoPE: the chunk's.
        keys: (batch, kv_heads, key_len, head_dim), after RoPE: stored entries, then the chunk's `query_len`.
        scale: factor on the dot products.
        is_text: (batch, heads, key_len), bool: entries that are of no picture; None where there is no picture.
        text_tail: tokens at the chunk's end that are text in every row.
        look_ahead: (1, query_heads, count, head_dim), after RoPE: queries of a profile, placed behind the chunk; None
            without a profile.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scale: float
    is_text: torch.Tensor | None = None
    text_tail: int = WINDOW
    look_ahead: torch.Tensor | None = None

    @property
    def window(self) -> torch.Tensor:
        """The last queries, `WINDOW` at most: (batch, query_heads, count, head_dim)."""
        return self.queries[:, :, -WINDOW:]

    @property
    def question(self) -> torch.Tensor:
        """Those of the window that are text behind the last picture, one at least."""
        return self.queries[:, :, -max(1, min(WINDOW, self.text_tail)) :]


Scorer = Callable[[Evidence], torch.Tensor]


def accumulated(evidence: Evidence) -> torch.Tensor:
    """Attention summed over all queries (PrefixKV section 3, H2O), mean over the heads of a group; in queries."""
    return attention_mass(evidence.queries, evidence.keys, evidence.scale)


def recency(evidence: Evidence) -> torch.Tensor:
    """Newer is more important, whatever the attention (the local window of StreamingLLM, arXiv 2309.17453).

    Returns:
        (batch, 1, key_len), float32: 1 for the oldest entry, key_len for the newest.
    """
    batch, _, key_len, _ = evidence.keys.shape
    return torch.arange(1, key_len + 1, dtype=torch.float32, device=evidence.keys.device).expand(batch, 1, -1)


def window(evidence: Evidence) -> torch.Tensor:
    """Mean attention of the last queries, averaged over neighbouring entries (SnapKV, arXiv 2404.14469, section 4).

    Deviation: heads of a group share one choice, as kv heads are what is stored.
    """
    mass = attention_mass(evidence.window, evidence.keys, evidence.scale) / evidence.window.shape[2]
    return torch.nn.functional.avg_pool1d(mass, POOL, stride=1, padding=POOL // 2, count_include_pad=False)


def text(evidence: Evidence) -> torch.Tensor:
    """Attention of the text queries, each weighted by the attention that it receives from them (TGV-KV).

    After arXiv 2606.03075 as far as it is known to us: a text token that other text attends to speaks louder.
    """
    chunk_len = evidence.queries.shape[2]
    stored = evidence.keys.shape[2] - chunk_len
    scores = []
    for row in range(evidence.keys.shape[0]):
        queries, keys = evidence.queries[row], evidence.keys[row]
        places = torch.arange(stored, stored + chunk_len, device=keys.device)
        if evidence.is_text is not None:
            places = places[evidence.is_text[row, 0, stored:]]
        spoken = queries[:, places - stored]
        even = torch.ones(keys.shape[0], len(places), device=keys.device)
        heard = row_mass(spoken, keys, evidence.scale, places, even)[:, places]
        scores.append(row_mass(spoken, keys, evidence.scale, places, heard / heard.sum(dim=-1, keepdim=True)))
    return torch.stack(scores)


def guided(evidence: Evidence) -> torch.Tensor:
    """The largest attention that any query pays of those that stand for what comes next.

    These are the prompt's last text queries, for what it asks, and the look-ahead queries of a profile, for what the
    model will look at while it answers. The maximum, since an entry that is needed once is needed.

    Without look-ahead queries it is the mean attention of the last text queries and, for what they do not ask, the
    attention of all queries that could see an entry, each normalised to 1.
    """
    if evidence.look_ahead is not None:
        question = evidence.question
        queries = torch.cat([question, evidence.look_ahead.expand(question.shape[0], -1, -1, -1)], dim=2)
        return attention_peak(queries, evidence.keys, evidence.scale, own=question.shape[2])
    question, (_, _, chunk_len, _), key_len = evidence.question, evidence.queries.shape, evidence.keys.shape[2]
    seen = attention_mass(evidence.queries, evidence.keys, evidence.scale)
    seen = seen * _parts_seen(key_len, chunk_len, seen.device)
    asked = attention_mass(question, evidence.keys, evidence.scale) * (0.5 / question.shape[2])
    return torch.addcdiv(asked, seen, seen.sum(dim=-1, keepdim=True), value=0.5)


@functools.lru_cache(maxsize=8)
def _parts_seen(key_len: int, chunk_len: int, device: torch.device) -> torch.Tensor:
    """One over the number of a chunk's queries that could see each key, (key_len,), float32."""
    # It outlives the call, so it must be an ordinary tensor even where the call is in inference mode.
    with torch.inference_mode(False):
        return 1 / torch.arange(key_len, 0, -1, dtype=torch.float32, device=device).clamp(max=chunk_len)


SCORERS: dict[str, Scorer] = {
    "accumulated": accumulated,
    "recency": recency,
    "window": window,
    "text": text,
    "guided": guided,
}
"""The scorers by the names that `prefixkv.policy.methods` uses."""
