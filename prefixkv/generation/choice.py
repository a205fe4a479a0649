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

_MULTIPLIERS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""Of SplitMix64, as signed numbers of 64 bits."""
_UNIFORM_BITS = 24


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_p: torch.Tensor,
    top_k: torch.Tensor,
    seeds: torch.Tensor,
    steps: torch.Tensor,
) -> torch.Tensor:
    """Choose a token for every row.

    Args:
        logits: (rows, vocabulary), float32.
        temperature: (rows,), float32; 0 takes the most likely token.
        top_p: (rows,), float32: drawn from the smallest set of tokens whose probabilities reach this sum; 1 for all.
        top_k: (rows,), int64: and from so many of the most likely ones; 0 for all.
        seeds: (rows,), int64.
        steps: (rows,), int64: tokens that were drawn before.

    Returns:
        (rows,), int64.
    """
    vocabulary = logits.shape[-1]
    scaled = logits / temperature.clamp(min=1e-6)[:, None]
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    places = torch.arange(vocabulary, device=logits.device)
    out = probabilities.cumsum(dim=-1) - probabilities >= top_p[:, None]
    out |= (places >= top_k[:, None]) & (top_k > 0)[:, None]
    # The most likely token stays whatever rounding says.
    out[:, 0] = False
    drawn = (ordered + _gumbel(seeds, steps, ids)).masked_fill(out, -torch.inf).argmax(dim=-1, keepdim=True)
    return torch.where(temperature > 0, ids.gather(-1, drawn)[:, 0], logits.argmax(dim=-1))


def _gumbel(seeds: torch.Tensor, steps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Noise of (rows, tokens) ids, float32."""
    mixed = _mixed(_mixed(seeds * _MULTIPLIERS[0] + steps)[:, None] + ids * _MULTIPLIERS[0])
    uniform = ((mixed & (2**_UNIFORM_BITS - 1)).float() + 0.5) / 2**_UNIFORM_BITS
    return -torch.log(-torch.log(uniform))


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser; a shift of a signed number is made one of its bits."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MULTIPLIERS[1]
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MULTIPLIERS[2]
    return x ^ ((x >> 31) & (2**33 - 1))


class RowChoice:
    """The sampling options of rows that come and go, as `sample` takes them."""

    def __init__(self, most_rows: int, device: torch.device) -> None:
        self._temperature, self._top_p = (torch.zeros(most_rows, device=device) for _ in range(2))
        self._top_k, self._seeds, self._steps = (
            torch.zeros(most_rows, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._draws: set[int] = set()

    def set(self, place: int, sampling: Sampling, step: int) -> None:
        """Note how a row's tokens are chosen.

        Args:
            place: of the row.
            sampling: the options; without a seed one is drawn.
            step: tokens of the answer that were chosen before.
        """
        self._draws.discard(place)
        if sampling.temperature > 0:
            self._draws.add(place)
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        options = ((self._temperature, sampling.temperature), (self._top_p, sampling.top_p), (self._top_k, 0))
        for values, value in (*options, (self._seeds, seed), (self._steps, step)):
            values[place] = value

    def __call__(self, logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Choose the next token of some rows.

        Args:
            logits: (rows, vocabulary), float32.
            places: of these rows.

        Returns:
            (rows,), int64.
        """
        if self._draws.isdisjoint(places):
            return logits.argmax(dim=-1)
        at = place_index(tuple(places), logits.device)
        options = (self._temperature, self._top_p, self._top_k, self._seeds, self._steps)
        chosen = sample(logits, *(values[at] for values in options))
        self._steps[at] += 1
        return chosen
