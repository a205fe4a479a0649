"""The next token from its logits, on the device, without waiting for it; a row's draws do not depend on its neighbours.

A token is drawn by the Gumbel trick: the largest of `logits / temperature + noise`. The noise of a token is a hash of
the row's seed, the number of the draw and the token's id, in whole numbers, so that it is the same on every device and
in every batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch

from prefixkv.generation.places import place_index
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import Shaping

_MULTIPLIERS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""Of SplitMix64, as signed numbers of 64 bits."""
_UNIFORM_BITS = 23
"""With half a unit added, so many fit float32 exactly, so that no logarithm is infinite."""


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_p: torch.Tensor | None,
    top_k: torch.Tensor | None,
    seeds: torch.Tensor,
    steps: torch.Tensor,
) -> torch.Tensor:
    """Choose a token for every row.

    Args:
        logits: (rows, vocabulary), float32.
        temperature: (rows,), float32; 0 takes the most likely token.
        top_p: (rows,), float32: drawn from the smallest set of tokens whose probabilities reach this sum; 1 for all.
            None where all rows draw from all, which needs no sorting.
        top_k: (rows,), int64: and from so many of the most likely ones, whose probabilities are those sums' whole; 0
            for all. None likewise.
        seeds: (rows,), int64.
        steps: (rows,), int64: tokens that were drawn before.

    Returns:
        (rows,), int64.
    """
    draws = temperature > 0
    scaled = logits / torch.where(draws, temperature, 1.0)[:, None]
    if top_p is not None or top_k is not None:
        scaled = _restricted(scaled, top_p, top_k)
    drawn = (scaled + _gumbel(seeds, steps, logits.shape[-1])).argmax(dim=-1)
    return torch.where(draws, drawn, logits.argmax(dim=-1))


def _restricted(logits: torch.Tensor, top_p: torch.Tensor | None, top_k: torch.Tensor | None) -> torch.Tensor:
    """The logits, -inf where a token may not be drawn."""
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        places = torch.arange(ordered.shape[-1], device=ordered.device)
        ordered = ordered.masked_fill((places >= top_k[:, None]) & (top_k > 0)[:, None], -torch.inf)
    if top_p is not None:
        probabilities = ordered.softmax(dim=-1)
        out = (probabilities.cumsum(dim=-1) - probabilities >= top_p[:, None]) & (top_p < 1)[:, None]
        # The most likely token stays whatever rounding says.
        out[:, 0] = False
        ordered = ordered.masked_fill(out, -torch.inf)
    return torch.empty_like(ordered).scatter_(-1, ids, ordered)


def _gumbel(seeds: torch.Tensor, steps: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Noise of every token, (rows, vocabulary), float32."""
    ids = torch.arange(1, vocabulary + 1, device=seeds.device)
    streams = _mixed(_mixed(seeds) + steps * _MULTIPLIERS[0])
    mixed = _mixed(streams[:, None] + ids * _MULTIPLIERS[0])
    uniform = ((mixed & (2**_UNIFORM_BITS - 1)).float() + 0.5) / 2**_UNIFORM_BITS
    return -torch.log(-torch.log1p(-uniform))


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser; a shift of a signed number is made one of its bits."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MULTIPLIERS[1]
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MULTIPLIERS[2]
    return x ^ ((x >> 31) & (2**33 - 1))


def seed_of(sampling: Sampling) -> int:
    """The seed that was asked for, or a fresh one."""
    return secrets.randbits(62) if sampling.seed is None else sampling.seed


class RowChoice:
    """The sampling options of rows that come and go, as `sample` takes them."""

    def __init__(self, most_rows: int, device: torch.device) -> None:
        self._temperature, self._top_p = (torch.zeros(most_rows, device=device) for _ in range(2))
        self._top_k, self._seeds, self._steps = (
            torch.zeros(most_rows, dtype=torch.int64, device=device) for _ in range(3)
        )
        # Places of rows that draw, and of those among them that do not draw from all tokens.
        self._draws, self._nuclei, self._shortlists = set[int](), set[int](), set[int]()
        self._shapings: dict[int, Shaping] = {}

    def set(self, place: int, sampling: Sampling, step: int, shaping: Shaping | None = None) -> None:
        """Note how a row's tokens are chosen.

        Args:
            place: of the row.
            sampling: the options; without a seed one is drawn.
            step: tokens of the answer that were chosen before.
            shaping: what the model's settings do to its logits, for the whole of one answer; None for nothing.
        """
        self._shapings.pop(place, None)
        if shaping is not None:
            self._shapings[place] = shaping
        draws = sampling.temperature > 0
        for kind, belongs in (
            (self._draws, draws),
            (self._nuclei, draws and sampling.top_p < 1),
            (self._shortlists, draws and sampling.top_k > 0),
        ):
            kind.add(place) if belongs else kind.discard(place)
        options = ((self._temperature, sampling.temperature), (self._top_p, sampling.top_p))
        numbers = ((self._top_k, sampling.top_k), (self._seeds, seed_of(sampling)), (self._steps, step))
        for values, value in (*options, *numbers):
            values[place] = value

    def __call__(self, logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Choose the next token of some rows.

        Args:
            logits: (rows, vocabulary), float32.
            places: of these rows.

        Returns:
            (rows,), int64.
        """
        if self._shapings.keys().isdisjoint(places):
            return self._choose(logits, places)
        shapings = [self._shapings.get(place) for place in places]
        rows = [logits[row : row + 1] for row in range(len(shapings))]
        shaped = [one if shaping is None else shaping(one) for one, shaping in zip(rows, shapings, strict=True)]
        chosen = self._choose(torch.cat(shaped), places)
        for row, shaping in enumerate(shapings):
            if shaping is not None:
                shaping.push(chosen[row : row + 1])
        return chosen

    def _choose(self, logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        if self._draws.isdisjoint(places):
            return logits.argmax(dim=-1)
        at = place_index(tuple(places), logits.device)
        top_p = None if self._nuclei.isdisjoint(places) else self._top_p[at]
        top_k = None if self._shortlists.isdisjoint(places) else self._top_k[at]
        chosen = sample(logits, self._temperature[at], top_p, top_k, self._seeds[at], self._steps[at])
        self._steps[at] += 1
        return chosen
