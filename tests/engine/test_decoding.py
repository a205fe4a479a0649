"""Decoding on the plain path, and where it is chosen."""

from __future__ import annotations

import pytest

import prefixkv
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.engine.decoding import decode, decode_rows
from prefixkv.generation.sampling import Sampling
from tests import tiny


def test_tokens_are_those_of_stock_generate() -> None:
    model, inputs = tiny.llava(), tiny.prompt(60)
    expected = model.generate(**inputs, max_new_tokens=30, min_new_tokens=30, do_sample=False)[0, 60:].tolist()
    with prefixkv.compress(model, "100%", "full") as cache:
        tokens = list(decode(model, inputs, cache, Sampling(30), ()))
        assert cache.seen_tokens == 60 + 29
    assert tokens == expected


def test_rows_decode_as_they_do_alone() -> None:
    model, rows = tiny.llama(), tiny.text(50, batch=2)
    with prefixkv.compress(model, "50%", "h2o") as cache:
        together = list(decode_rows(model, {"input_ids": rows}, cache, Sampling(20)))
    for row in range(2):
        with prefixkv.compress(model, "50%", "h2o") as cache:
            alone = list(decode(model, {"input_ids": rows[row : row + 1]}, cache, Sampling(20), ()))
        assert [step[row] for step in together] == alone


def test_a_stop_token_ends_the_answer_and_is_not_read() -> None:
    model = tiny.llama()
    with prefixkv.compress(model, "50%", "h2o") as cache:
        tokens = list(decode(model, {"input_ids": tiny.text(40)}, cache, Sampling(12), ()))
    stop = tokens[3]
    with prefixkv.compress(model, "50%", "h2o") as cache:
        ended = list(decode(model, {"input_ids": tiny.text(40)}, cache, Sampling(12), {stop}))
        assert cache.seen_tokens == 40 + len(ended) - 1
    assert ended == tokens[: tokens.index(stop) + 1]


def test_capturing_without_a_gpu_is_refused_and_the_default_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    model, heard = tiny.llama(), list[str]()
    with (
        prefixkv.compress(model, "50%", "h2o") as cache,
        pytest.raises(NotCapturableError, match="on cpu cannot be captured"),
    ):
        list(decode(model, {"input_ids": tiny.text(40)}, cache, Sampling(12), (), captured=True))
    with prefixkv.compress(model, "50%", "h2o") as cache:
        assert (
            len(list(decode(model, {"input_ids": tiny.text(40)}, cache, Sampling(12), (), notify=heard.append))) == 12
        )
    assert heard == []
