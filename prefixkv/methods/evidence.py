"""What a layer knows of its entries when a chunk has attended: all that a method scores by."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from prefixkv.kernels.dispatch import attention_mass, attention_peak
from prefixkv.kernels.row_mass import row_mass
from prefixkv.methods.precedence import with_means

if TYPE_CHECKING:
    from prefixkv.policy.rotary import Rotation

WINDOW = 64
"""Most queries at the end of a chunk that speak for what will be asked next (SnapKV's observation window)."""
SAMPLE = 256
"""Most of a prompt's own queries that stand for what is asked next, where no profile has look-ahead queries."""
POOL = 5
"""Entries over which SnapKV averages."""
MOST = 0.99
"""Attention above this counts as this where it is set against what is left of it."""


@dataclass(frozen=True)
class Evidence:
    """One layer's queries and keys. No attention matrix is ever built from them.

    Attributes:
        queries: (batch, query_heads, query_len, head_dim), after RoPE: the chunk's, or its last ones where the method
            looks at no others.
        keys: (batch, kv_heads, key_len, head_dim), after RoPE: stored entries, then the chunk's.
        scale: factor on the dot products.
        is_text: (batch, heads, key_len), bool: entries that are of no picture; None where there is no picture, and for
            methods that do not keep text first.
        text_tail: tokens at the chunk's end that are text in every row.
        look_ahead: (1, query_heads, count, head_dim), after RoPE: a profile's queries, placed behind the chunk, or what
            stands for them; None where nothing does.
        values: (batch, stored_heads, key_len, value_dim), of the entries; the latents where these are what is stored.
        gathered: (1, query_heads, count, head_dim), float32, for methods that move queries: the queries that stand for
            what is asked next (a profile's, or the chunk's own), all turned to the place behind the chunk; None where
            the model's rotation is not known.
        rotation: the model's, likewise.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scale: float
    is_text: torch.Tensor | None = None
    text_tail: int = WINDOW
    look_ahead: torch.Tensor | None = None
    values: torch.Tensor | None = None
    gathered: torch.Tensor | None = None
    rotation: Rotation | None = None

    @property
    def window(self) -> torch.Tensor:
        """The last queries, `WINDOW` at most: (batch, query_heads, count, head_dim)."""
        return self.queries[:, :, -WINDOW:]

    @property
    def question(self) -> torch.Tensor:
        """Those of the window that are text behind the last picture, one at least."""
        return self.queries[:, :, -max(1, min(WINDOW, self.text_tail)) :]

    @property
    def places(self) -> torch.Tensor:
        """1 for the oldest entry, key_len for the newest: (batch, 1, key_len), float32."""
        batch, _, key_len, _ = self.keys.shape
        return torch.arange(1, key_len + 1, dtype=torch.float32, device=self.keys.device).expand(batch, 1, -1)

    @property
    def sampled(self) -> torch.Tensor:
        """`SAMPLE` of the chunk's queries, drawn from all of it, or all where there are fewer.

        Returns:
            (batch, query_heads, count, head_dim), in the order of the text; the same places in every layer.
        """
        return self.queries[:, :, sampled_places(self.queries.shape[2], self.queries.device)]

    @property
    def value_norms(self) -> torch.Tensor:
        """The length of each value: (batch, kv_heads, key_len), float32. On a GPU the values are not copied for it."""
        assert self.values is not None
        norms = torch.linalg.vector_norm(self.values, dim=-1, dtype=torch.float32)
        copies = self.keys.shape[1] // norms.shape[1]
        return norms if copies == 1 else norms.repeat_interleave(copies, dim=1)

    def attention(self, queries: torch.Tensor) -> torch.Tensor:
        """The attention that each entry receives from queries, summed over them and averaged over a group's heads.

        Args:
            queries: (batch, query_heads, count, head_dim): the last `count` of the chunk.

        Returns:
            (batch, kv_heads, key_len), float32.
        """
        return attention_mass(queries, self.keys, self.scale)

    def peak(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The largest attention that each entry receives from the question or a query that looks ahead, and the mean.

        What looks ahead are the look-ahead queries; without any, a sample of the chunk's own, which see all entries
        here, the later ones too. In the mean the question has one half, and they have the other.

        Returns:
            Two of (batch, kv_heads, key_len), float32.
        """
        question = self.question
        ahead = self.sampled if self.look_ahead is None else self.look_ahead
        queries = torch.cat([question, ahead.expand(question.shape[0], -1, -1, -1)], dim=2)
        return attention_peak(queries, self.keys, self.scale, own=question.shape[2])

    def foreseen(self) -> torch.Tensor:
        """Importance by how far the output of attention may move without the entry, the means among the first.

        Where an entry with the weight `a` and the value `v` goes, the other weights grow until they sum to 1 again, and
        the output `o` moves by `a / (1 - a) * (o - v)`: at most by `a / (1 - a)` times the sum of the two lengths. `a`
        is the largest attention here, and for the length of an output stands the mean length of the head's values.
        (VATP, arXiv 2406.12335, multiplies attention by the length of the value, and keeps the first tokens, whose
        values are short, apart; here they stay by their attention, which leaves little to others.)

        Returns:
            (batch, kv_heads, key_len), float32.
        """
        peak, mean = self.peak()
        lengths = self.value_norms
        moved = peak / (1 - peak.clamp(max=MOST)) * (lengths + lengths.mean(dim=-1, keepdim=True))
        return with_means(moved, mean)

    @property
    def key_distance(self) -> torch.Tensor:
        """1 less the cosine between each key and the mean of the kv head's keys, each of length 1.

        Returns:
            (batch, kv_heads, key_len), float32, in [0, 2]; 1 for a key of zeros.
        """
        directions = torch.nn.functional.normalize(self.keys.float(), dim=-1)
        mean = torch.nn.functional.normalize(directions.mean(dim=2), dim=-1)
        return 1 - (directions @ mean[..., None])[..., 0]

    def text_attention(self) -> torch.Tensor:
        """The attention of text queries, each weighted by the attention that it receives from text queries.

        Returns:
            (batch, kv_heads, key_len), float32.
        """
        chunk_len = self.queries.shape[2]
        stored = self.keys.shape[2] - chunk_len
        scores = []
        for row in range(self.keys.shape[0]):
            queries, keys = self.queries[row], self.keys[row]
            places = torch.arange(stored, stored + chunk_len, device=keys.device)
            if self.is_text is not None:
                places = places[self.is_text[row, 0, stored:]]
            spoken = queries[:, places - stored]
            even = torch.ones(keys.shape[0], len(places), device=keys.device)
            heard = row_mass(spoken, keys, self.scale, places, even)[:, places]
            scores.append(row_mass(spoken, keys, self.scale, places, heard / heard.sum(dim=-1, keepdim=True)))
        return torch.stack(scores)

    def pooled(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores, (batch, heads, key_len), each the mean of its `POOL` neighbours and itself among them."""
        return torch.nn.functional.avg_pool1d(scores, POOL, stride=1, padding=POOL // 2, count_include_pad=False)


@functools.lru_cache(maxsize=8)
def sampled_places(chunk_len: int, device: torch.device) -> torch.Tensor:
    """Places of `SAMPLE` of so many tokens, (count,), int64, ascending: drawn, as a grid meets a picture's own."""
    # It outlives the call, so it must be an ordinary tensor even where the call is in inference mode.
    with torch.inference_mode(False):
        order = torch.randperm(chunk_len, generator=torch.Generator().manual_seed(chunk_len))
        return order[:SAMPLE].sort().values.to(device)
