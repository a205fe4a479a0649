"""A batch of ragged rows is, row for row, what each gives alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.errors import BudgetTooSmallError, PrefixKVError
from prefixkv.methods.table import METHODS
from prefixkv.transformers_compat import cache_argument
from tests import tiny

LENGTHS = (40, 61, 17, 88)
NEW_TOKENS = 16


def rows_of(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    return [tiny.text(length, seed=10 + index) for index, length in enumerate(lengths)]


def padded(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Left-padded, as `generate` wants a batch."""
    longest = max(row.shape[1] for row in rows)
    ids = torch.full((len(rows), longest), 7)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, longest - row.shape[1] :] = row
        mask[index, longest - row.shape[1] :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def generate(
    model: Any, inputs: dict[str, torch.Tensor], cache: PrefixKVCache, new_tokens: int = NEW_TOKENS
) -> torch.Tensor:
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 7}
    return model.generate(**inputs, **cache_argument(cache), **options)[:, inputs["input_ids"].shape[1] :]


def kept(cache: PrefixKVCache, layer: int) -> torch.Tensor:
    """In the order of the text: a method may store them by importance, where rounding orders what is nearly equal."""
    return cache.kept_positions(layer).sort(dim=-1).values


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", ["20%", "9tok", "18KiB a row", "100%"])
def test_ragged_rows_equal_single_rows(method: str, budget: str) -> None:
    """Token for token and kept index for kept index, float32, after the prompt and after the last step."""
    model, rows = tiny.llama(layers=4), rows_of()
    share, whole = budget, budget
    if budget.endswith("a row"):
        share, whole = "18KiB", f"{18 * len(rows)}KiB"
    if METHODS[method].keeps_all and budget != "100%":
        share = whole = "50%"
    for new_tokens in (1, NEW_TOKENS):
        with prefixkv.compress(model, whole, method) as together:
            answers = generate(model, padded(rows), together, new_tokens)
        for index, row in enumerate(rows):
            with prefixkv.compress(model, share, method) as alone:
                assert generate(model, padded([row]), alone, new_tokens)[0].equal(answers[index])
            for layer in range(4):
                expected = kept(alone, layer)
                assert kept(together.rows[index], layer).equal(expected)
                positions = together.kept_positions(layer)[index]
                assert positions[:, : expected.shape[-1]].sort(dim=-1).values.equal(expected[0])
                assert (positions[:, expected.shape[-1] :] == -1).all()
    assert together.usage().kept_bytes == sum(row.usage().kept_bytes for row in together.rows)


def test_second_turn_of_a_batch_equals_single_rows() -> None:
    model, rows = tiny.llama(layers=4), rows_of()
    more = rows_of((9, 4, 20, 1))
    with prefixkv.compress(model, "30%") as together:
        inputs = padded(rows)
        answers = generate(model, inputs, together)
        second = padded(more)
        ones = torch.ones_like(answers)
        ids = torch.cat([inputs["input_ids"], answers, second["input_ids"]], dim=1)
        mask = torch.cat([inputs["attention_mask"], ones, second["attention_mask"]], dim=1)
        later = generate(model, {"input_ids": ids, "attention_mask": mask}, together)
    for index, (row, addition) in enumerate(zip(rows, more, strict=True)):
        with prefixkv.compress(model, "30%") as alone:
            answer = generate(model, padded([row]), alone)
            assert answer[0].equal(answers[index])
            whole = torch.cat([row, answer, addition], dim=1)
            assert generate(model, padded([whole]), alone)[0].equal(later[index])
        for layer in range(4):
            assert kept(together.rows[index], layer).equal(kept(alone, layer))


def test_right_padded_prompt_is_read_as_it_is_alone() -> None:
    model, rows = tiny.llama(layers=4), rows_of()
    inputs = padded(rows)
    for name, value in inputs.items():
        inputs[name] = torch.stack([row.roll(length) for row, length in zip(value, LENGTHS, strict=True)])
    with torch.no_grad(), prefixkv.compress(model, "30%") as together:
        model(**inputs, **cache_argument(together))
    for index, row in enumerate(rows):
        with torch.no_grad(), prefixkv.compress(model, "30%") as alone:
            model(input_ids=row, **cache_argument(alone))
        assert all(kept(together.rows[index], layer).equal(kept(alone, layer)) for layer in range(4))


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("method", METHODS)
def test_hard_limit_of_a_batch_holds_at_every_step(method: str) -> None:
    """The buffers of all rows and layers together, padding that joins rows included, never exceed the bytes given."""
    if METHODS[method].keeps_all:
        pytest.skip("a method that keeps everything has no limit")
    model, limit = tiny.llama(layers=4), 4 * 12_000
    measured = []
    with torch.no_grad(), prefixkv.compress(model, f"{limit}B", method) as cache:
        inputs = padded(rows_of())
        model(**inputs, **cache_argument(cache))
        mask = inputs["attention_mask"]
        for step in range(120):
            mask = torch.cat([mask, mask.new_ones(4, 1)], dim=1)
            positions = (mask.cumsum(1) - 1)[:, -1:]
            model(input_ids=tiny.text(1, step, 4), attention_mask=mask, position_ids=positions, **cache_argument(cache))
            measured.append(cache.usage().allocated_bytes)
    assert max(measured) <= limit
    assert measured[-1] > 0.7 * limit


def test_other_number_of_rows_is_refused() -> None:
    model = tiny.llama()
    with torch.no_grad(), prefixkv.compress(model) as cache:
        model(**padded(rows_of()), **cache_argument(cache))
        with pytest.raises(PrefixKVError, match="4 rows and cannot take 2"):
            model(input_ids=tiny.text(5, batch=2), **cache_argument(cache))
        cache.reset()
        model(input_ids=tiny.text(9), **cache_argument(cache))
        with pytest.raises(PrefixKVError, match="read one row"):
            model(input_ids=tiny.text(5, batch=2), **cache_argument(cache))


def test_budget_in_bytes_names_the_smallest_that_works() -> None:
    model = tiny.llama(layers=4)
    with (
        prefixkv.compress(model, "4KiB", "prefixkv") as cache,
        pytest.raises(BudgetTooSmallError, match=r"at least 8\.54 KiB"),
    ):
        generate(model, padded(rows_of()), cache)


def test_several_answers_to_one_prompt() -> None:
    """`num_return_sequences` makes rows of one prompt; greedy rows are all what the prompt gives alone."""
    model = tiny.llama(layers=4)
    torch.manual_seed(3)
    with prefixkv.compress(model, "30%") as cache:
        out = model.generate(
            tiny.text(50), **cache_argument(cache), num_return_sequences=3, do_sample=True, max_new_tokens=20
        )
    assert out.shape == (3, 70)
    assert len({tuple(row) for row in out.tolist()}) == 3


@pytest.mark.parametrize("budget", ["20%", "18KiB", "100%"])
def test_bytes_are_reckoned_without_making_up_for_counted_steps(budget: str) -> None:
    """Steps that the device has stored are only counted, and the newest may be taken back."""
    model, prompt = tiny.llama(layers=4), tiny.text(60)
    with prefixkv.compress(model, budget, "h2o") as cache:
        model(input_ids=prompt, **cache_argument(cache))
    (row,) = cache.rows
    read, sizes = row.stored_bytes, [row.stored_bytes]
    assert read == sum(layer.kept_tokens * layer.entry_bytes for layer in row.layers)
    for _ in range(20):
        row.count_step()
        sizes.append(row.stored_bytes)
    assert sizes == sorted(sizes)
    row.discount_steps(3)
    assert row.stored_bytes == sizes[-4]
    assert sum(layer.kept_tokens * layer.entry_bytes for layer in row.layers) == sizes[-4]
    assert row.seen_tokens == 60 + 17
