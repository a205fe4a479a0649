r"""Conversations as token arrays: many short conversations about one picture share its 576 image tokens; no torch here.

A packed text is a row of blocks. Each block is one conversation that continues the common prefix
`<s>USER: <image>...\n` on its own: it sees the prefix and itself, and its positions start right after the prefix.
So the model trains on exactly what it is asked later, and pays for the picture once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prefixkv.demo.documents.questions import READING_KINDS
from prefixkv.demo.questions import KINDS, Question
from tools.demo.tokens import BOS, EOS, IMAGE, IMAGE_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Answers given earlier in a conversation are trained on too, but counted apart from the kind of its last question.
ALL_KINDS = (*KINDS, *READING_KINDS)
CONTEXT_KIND = len(ALL_KINDS)
NOT_AN_ANSWER = 255
PADDING_SEGMENT = 255

Turn = tuple[str, str, int]


@dataclass(frozen=True)
class PackedText:
    """The text of one picture; every array has one entry a token.

    Attributes:
        tokens: int16, token ids, padded with 0.
        segments: uint8, the block of a token from 1 on; `PADDING_SEGMENT` for padding.
        positions: int16, the position that the token has in its own conversation.
        answers: uint8, which answer the token belongs to, from 1 on; 0 outside of answers.
        kinds: uint8, index of the answer's kind in `ALL_KINDS`; `NOT_AN_ANSWER` outside of answers.
        weights: float16, weight of the token in the loss; 0 outside of answers.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    answers: np.ndarray
    kinds: np.ndarray
    weights: np.ndarray


class Packer:
    """Turns the questions of a scene into a `PackedText`.

    Args:
        tokenizer: The tokenizer of the model.
        text_tokens: Tokens in a packed text, the picture's prefix not counted.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, text_tokens: int) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._eos = tokenizer.vocab[EOS]
        self.text_tokens = text_tokens
        image = tokenizer.vocab[IMAGE]
        before = self._encode([f"{BOS}USER: "])[0]
        self.prefix = np.array(before + [image] * IMAGE_TOKENS + self._encode(["\n"])[0], dtype=np.int64)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def encode_block(self, turns: list[Turn]) -> list[tuple[list[int], list[int], int]]:
        """Token ids of a conversation, one (question, answer, kind) a turn, as the chat template would give them."""
        texts = []
        for index, (question, answer, _) in enumerate(turns):
            texts += [f"{'USER: ' if index else ''}{question} ASSISTANT:", f" {answer}"]
        ids = self._encode(texts)
        return [(ids[2 * i], ids[2 * i + 1] + [self._eos], turn[2]) for i, turn in enumerate(turns)]

    def pack(self, questions: list[Question], rng: np.random.Generator) -> PackedText:
        """Pack as many of the questions as fit, in random order, some of them joined to longer conversations."""
        length = self.text_tokens
        packed = PackedText(
            tokens=np.zeros(length, dtype=np.int16),
            segments=np.full(length, PADDING_SEGMENT, dtype=np.uint8),
            positions=np.zeros(length, dtype=np.int16),
            answers=np.zeros(length, dtype=np.uint8),
            kinds=np.full(length, NOT_AN_ANSWER, dtype=np.uint8),
            weights=np.zeros(length, dtype=np.float16),
        )
        start, segment, answer_index = 0, 0, 0
        for turns in _conversations(questions, rng):
            block = self.encode_block(turns)
            size = sum(len(question) + len(answer) for question, answer, _ in block)
            if start + size > length or segment == PADDING_SEGMENT - 1:
                continue
            segment += 1
            packed.segments[start : start + size] = segment
            packed.positions[start : start + size] = np.arange(size) + len(self.prefix)
            for question_ids, answer_ids, kind in block:
                end = start + len(question_ids) + len(answer_ids)
                packed.tokens[start:end] = question_ids + answer_ids
                answer_index += 1
                span = slice(start + len(question_ids), end)
                packed.answers[span] = answer_index
                packed.kinds[span] = kind
                # Between one weight a token and one an answer: long descriptions must not drown the short answers.
                packed.weights[span] = len(answer_ids) ** -0.5
                start = end
        return packed


def _conversations(questions: list[Question], rng: np.random.Generator) -> list[list[Turn]]:
    keep_describe = rng.random() < 0.4
    chosen = [item for item in questions if item.kind != "describe" or keep_describe]
    singles: list[list[Turn]] = []
    # Transcriptions come first, as they teach most and would seldom fit behind the others.
    order = np.argsort(rng.random(len(chosen)) - [item.kind == "transcription" for item in chosen], kind="stable")
    for index in order:
        item = chosen[index]
        earlier = [(question, answer, CONTEXT_KIND) for question, answer in item.context]
        singles.append([*earlier, (item.question, item.answer, ALL_KINDS.index(item.kind))])
    conversations: list[list[Turn]] = []
    while singles:
        joined = 1 if rng.random() < 0.75 else int(rng.integers(2, 5))
        conversations.append([turn for single in singles[:joined] for turn in single])
        singles = singles[joined:]
    return conversations
