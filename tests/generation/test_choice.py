"""Draws follow the distribution that was asked for, and a row's do not depend on the rows beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from prefixkv.generation.choice import RowChoice, sample
from prefixkv.generation.sampling import Sampling

CPU = torch.device("cpu")
DRAWS = 20_000


def _logits(rows: int, seed: int = 0, vocabulary: int = 40) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def _choice(samplings: list[Sampling], steps: list[int]) -> RowChoice:
    choice = RowChoice(len(samplings), CPU)
    for place, (sampling, step) in enumerate(zip(samplings, steps, strict=True)):
        choice.set(place, sampling, step)
    return choice


def _warped(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The probabilities by transformers' own warpers."""
    logits = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(None, logits)
    if sampling.top_p < 1:
        logits = TopPLogitsWarper(sampling.top_p)(None, logits)
    return logits.softmax(dim=-1)[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.5, top_p=0.8),
        Sampling(temperature=1.0, top_k=5),
        Sampling(temperature=2.0, top_p=0.6, top_k=12),
        Sampling(temperature=1.0, top_p=0.01),
    ],
)
@pytest.mark.parametrize("along", ["seeds", "steps"])
def test_tokens_are_as_frequent_as_they_are_likely(sampling: Sampling, along: str) -> None:
    """Pearson's chi-squared over the tokens that are expected often enough; none that may not be drawn."""
    logits = _logits(1)
    expected = _warped(logits, sampling)
    numbers = torch.arange(DRAWS)
    seeds = numbers if along == "seeds" else torch.full((DRAWS,), 7)
    steps = numbers if along == "steps" else torch.full((DRAWS,), 3)
    temperature, top_p = (torch.full((DRAWS,), value) for value in (sampling.temperature, sampling.top_p))
    drawn = sample(logits.expand(DRAWS, -1), temperature, top_p, torch.full((DRAWS,), sampling.top_k), seeds, steps)
    counts = torch.bincount(drawn, minlength=len(expected)).double()
    assert (counts[expected == 0] == 0).all()
    often = expected * DRAWS > 5
    statistic = ((counts - expected * DRAWS) ** 2 / (expected * DRAWS))[often].sum()
    # Far beyond the 99.9 % point of as many degrees of freedom.
    assert statistic < 2 * int(often.sum()) + 20


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_row_draws_the_same_alone_and_beside_others(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 9))
    some = st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        top_p=st.sampled_from([1.0, 0.9, 0.3]),
        top_k=st.sampled_from([0, 1, 7, 500]),
        seed=st.integers(0, 2**63 - 1),
    )
    samplings = data.draw(st.lists(some, min_size=rows, max_size=rows))
    steps = data.draw(st.lists(st.integers(0, 5000), min_size=rows, max_size=rows))
    logits = _logits(rows, data.draw(st.integers(0, 99)), vocabulary=data.draw(st.sampled_from([3, 40, 1001])))
    choice = _choice(samplings, steps)
    together = [choice(logits, range(rows)) for _ in range(3)]
    for row in range(rows):
        here = slice(row, row + 1)
        alone = _choice(samplings[here], steps[here])
        assert [int(alone(logits[here], [0])) for _ in range(3)] == [int(tokens[row]) for tokens in together]
        if samplings[row].temperature == 0 or samplings[row].top_k == 1:
            assert together[0][row] == logits[row].argmax()


def test_an_answer_is_repeatable_by_its_seed_alone() -> None:
    logits = _logits(30, seed=4)

    def answer(seed: int | None) -> list[int]:
        choose = _choice([Sampling(temperature=2.0, seed=seed)], [0])
        return [int(choose(step[None], [0])) for step in logits]

    assert answer(5) == answer(5)
    assert len({tuple(answer(seed)) for seed in (5, 6, None, None)}) == 4


def test_the_rarest_noise_is_finite() -> None:
    """No token is drawn only because a logarithm was infinite."""
    from prefixkv.generation.choice import _UNIFORM_BITS, _gumbel

    assert ((2**_UNIFORM_BITS - 1 + torch.tensor(0.5)) / 2**_UNIFORM_BITS) < 1
    for seed in range(2):
        assert _gumbel(torch.tensor([seed]), torch.tensor([0]), 2**20).isfinite().all()
