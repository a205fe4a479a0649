"""The text of an answer, piece by piece and as a whole, and what it says of its speed."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefixkv.generation.answer import RATE_TOKENS, Answer, AnswerWriter, rate
from prefixkv.generation.detokenization import decoded
from prefixkv.generation.stop_text import before_stop
from prefixkv.transformers_compat import token_decoder


@pytest.mark.parametrize(
    ("tokens", "seconds", "wanted"), [(1, 0.0, None), (RATE_TOKENS - 1, 1.0, None), (10, 3.0, 3.0), (12, 0.0, None)]
)
def test_a_speed_is_told_from_ten_tokens_on(tokens: int, seconds: float, wanted: float | None) -> None:
    assert rate(tokens, seconds) == wanted
    assert Answer("text", 5, tokens, 0.5, seconds, "stop").tokens_per_second == wanted


@pytest.mark.parametrize("stops", [(), ("\N{SNOWMAN}",), ("b\N{EURO SIGN}x",), (" ",)])
def test_wherever_an_answer_is_cut_its_pieces_are_its_whole_text(stops: tuple[str, ...]) -> None:
    """Each token is a byte; the last character may lack some."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({mark: index for index, mark in enumerate(alphabet)}, []))
    bytewise.pre_tokenizer, bytewise.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, clean_up_tokenization_spaces=False)
    tokens = tokenizer.encode("a\N{REPLACEMENT CHARACTER}b\N{EURO SIGN} \N{SNOWMAN}\N{GRINNING FACE}")
    for length in range(1, len(tokens) + 1):
        writer = AnswerWriter(tokenizer, (), stops)
        pieces = []
        for token in tokens[:length]:
            pieces.append(writer.push(token))
            if writer.has_stopped:
                break
        whole = before_stop(decoded(tokenizer, tokens[:length]), stops).strip()
        assert "".join([*pieces, writer.end()]) == writer.text == whole
        assert not whole.endswith("\N{REPLACEMENT CHARACTER}")


class _Own(PreTrainedTokenizerFast):
    """Decodes in its own way."""

    def _decode(self, *args: object, **options: object) -> str:
        return super()._decode(*args, **options).upper()


@pytest.mark.parametrize("kind", [PreTrainedTokenizerFast, _Own])
@pytest.mark.parametrize("cleans", [False, True])
def test_tokens_are_decoded_as_the_tokenizer_does(kind: type[PreTrainedTokenizerFast], cleans: bool) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "bee": 1, ",": 2, "</s>": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = kind(tokenizer_object=words, clean_up_tokenization_spaces=cleans, eos_token="</s>")
    for tokens in ([0], [0, 1], [0, 2, 1, 3], [3], []):
        for skips in (False, True):
            assert token_decoder(tokenizer)(tokens, skips) == tokenizer.decode(tokens, skip_special_tokens=skips)
    tokenizer.decode = lambda tokens, skip_special_tokens: f"{tokens}"  # type: ignore[method-assign]
    assert token_decoder(tokenizer)([0], True) == "[0]"
