"""A tokenizer of a few made-up words, with the special tokens that a family's processor asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SpecialTokens = Mapping[str, str]

END = "</s>"
WORDS = [first + second for first in "bcdfghjklmnpqrstvwxyz" for second in "aeiou"]
TEMPLATE = (
    "{{% for message in messages %}}{{{{ message['role'] }}}} "
    "{{% if message['content'] is string %}}{{{{ message['content'] }}}} {{% else %}}"
    "{{% for part in message['content'] %}}"
    "{{{{ '{picture} ' if part['type'] == 'image' else part['text'] + ' ' }}}}"
    "{{% endfor %}}{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}assistant {{% endif %}}"
)
"""A chat template; `.format(picture=...)` puts in what stands for a picture."""


def tiny_tokenizer(
    special: SpecialTokens, more: Sequence[str] = (), begins: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are two letters long.

    Args:
        special: special tokens by the names that become attributes of the tokenizer.
        more: further special tokens.
        begins: token that begins every text.
    """
    marks = [mark for mark in (begins, END) if mark is not None]
    words = ["<pad>", "?", "user", "assistant", *WORDS]
    vocabulary = {word: index for index, word in enumerate([*words, *marks])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="?",
        bos_token=begins,
        eos_token=END,
        extra_special_tokens=dict(special),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE.format(picture="")
    fast.add_tokens(list(more), special_tokens=True)
    fast.padding_side = "left"
    return fast
