"""Questions and texts as token ids: what is read and compressed, what comes after it, and what is to be predicted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.data import FIRST_TOKENS, DataSource, Question
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.loading import LoadedModel


@dataclass(frozen=True)
class Exercise:
    """One sample.

    Attributes:
        inputs: the model's inputs for the prompt, which is read at once and compressed.
        bridge: tokens that are then decoded one by one: the answer to a first question. May be empty.
        further: tokens that are then read as a chunk: a second question. May be empty.
        reference: token ids that are to be predicted, without the end token; None where the model's own answer is.
        is_text: whether the reference is simply how the text goes on, so that it stands for the model's answer too.
        last: the last token before the answer, where it is decoded by itself, so that the answer's first token comes
            from the compressed cache; else empty.
    """

    inputs: dict[str, torch.Tensor]
    bridge: tuple[int, ...] = ()
    further: tuple[int, ...] = ()
    reference: tuple[int, ...] | None = None
    is_text: bool = False
    last: tuple[int, ...] = ()

    def from_cache(self) -> Exercise:
        """The same sample with the last token before the answer left to a decoding step."""
        if self.further:
            return replace(self, further=self.further[:-1], last=self.further[-1:])
        inputs, last = without_last(self.inputs)
        return self if self.bridge else replace(self, inputs=inputs, last=last)


def without_last(inputs: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
    """A prompt's inputs without its last token, and that token; a prompt of one token stays, and there is no other.

    Args:
        inputs: `input_ids` (1, seen_len), what else is told of each token in the same shape, and pictures.
    """
    ids = inputs["input_ids"]
    if ids.shape[1] < 2:
        return dict(inputs), ()
    first = {name: value[:, :-1] if value.shape == ids.shape else value for name, value in inputs.items()}
    return first, (int(ids[0, -1]),)


class Exercises:
    """The samples of a source for one model, made when they are asked for."""

    def __init__(
        self,
        loaded: LoadedModel,
        source: DataSource,
        context_tokens: int,
        continuation_tokens: int,
        first_token: str = FIRST_TOKENS[0],
    ) -> None:
        """Read the source.

        Args:
            loaded: the model.
            source: where the samples come from.
            context_tokens: tokens of a text that are compressed.
            continuation_tokens: tokens behind them that are to be predicted.
            first_token: one of `FIRST_TOKENS`.

        Raises:
            PrefixKVError: the source cannot be read, the model reads no images, or the text is too short.
        """
        self._loaded, self._follow_up, self._is_stepped = loaded, source.follow_up, first_token == "cache"
        self.questions: list[Question] = []
        self._windows: list[list[int]] = []
        self._start: list[int] = []
        self._context_tokens = context_tokens
        if source.kind == "text":
            self._start = list(loaded.tokenizer("")["input_ids"])
            self._windows = self._cut(source, context_tokens - len(self._start) + continuation_tokens)
        else:
            self.questions = source.questions(self._count_tokens)
            if not loaded.takes_images and any(question.picture for question in self.questions):
                raise PrefixKVError(
                    f"model {loaded.id!r} reads no images: give data without pictures, such as text:FILE, "
                    "or another model"
                )

    def _count_tokens(self, text: str) -> int:
        return len(self._loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.questions) or len(self._windows)

    def __getitem__(self, index: int) -> Exercise:
        """The sample of that number, on the model's device."""
        exercise = self._read(index)
        return exercise.from_cache() if self._is_stepped else exercise

    def _read(self, index: int) -> Exercise:
        if self._windows:
            window, split = self._windows[index], self._context_tokens - len(self._start)
            ids = torch.tensor([[*self._start, *window[:split]]], device=self._loaded.device)
            return Exercise({"input_ids": ids}, reference=tuple(window[split:]), is_text=True)
        return dialogue(self._loaded, self.questions[index], self._follow_up)

    def _cut(self, source: DataSource, length: int) -> list[list[int]]:
        """Windows side by side, none across two files."""
        windows = []
        longest = 0
        for text in source.texts():
            ids = self._loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            longest = max(longest, len(ids))
            windows += [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
        if not windows:
            raise PrefixKVError(
                f"{source.path} is too short: the longest text has {longest} tokens and one window takes {length}; "
                "give a longer text, or smaller --context-tokens and --continuation-tokens"
            )
        return windows[: source.count]


def dialogue(loaded: LoadedModel, question: Question, follow_up: bool = False) -> Exercise:
    """A question as token ids.

    Args:
        loaded: the model.
        question: with its context.
        follow_up: read and compress the context's first question alone; its answer is then decoded token by token, and
            the question read as a further turn.

    Raises:
        PrefixKVError: the model's template does not continue a conversation where it ended.
    """
    images = () if question.picture is None else (question.picture(),)
    turns = [Turn(text, (), answer) for text, answer in question.context] + [Turn(question.text)]
    turns[0] = Turn(turns[0].prompt, images, turns[0].answer)
    stops = stop_tokens(loaded)
    whole = Prompt(loaded.processor, turns)
    reference = None
    if question.answer is not None:
        reference = tuple(_answer_tokens(loaded.processor, turns, question.answer, stops, whole))
    if not follow_up:
        return Exercise(loaded.on_device(whole.inputs), reference=reference)
    first = Prompt(loaded.processor, [Turn(turns[0].prompt, images)])
    begun, ids = _ids(first), _ids(whole)
    answer = question.context[0][1]
    bridge = _answer_tokens(loaded.processor, [Turn(turns[0].prompt, images)], answer, stops, first)
    rest = ids[len(begun) :]
    if ids[: len(begun)] != begun or rest[: len(bridge)] != bridge:
        raise PrefixKVError(
            f"the chat template of {loaded.id!r} does not continue a conversation where it ended: "
            "ask without a follow-up"
        )
    # The end token is the model's last word, so it is decoded too.
    if len(rest) > len(bridge) and rest[len(bridge)] in stops:
        bridge = rest[: len(bridge) + 1]
    return Exercise(loaded.on_device(first.inputs), tuple(bridge), tuple(rest[len(bridge) :]), reference)


def _answer_tokens(
    processor: Any, turns: Sequence[Turn], answer: str, stops: Collection[int], asked: Prompt
) -> list[int]:
    """An answer as it is spelt behind its question, without the end token."""
    *earlier, last = turns
    ids = _ids(Prompt(processor, [*earlier, Turn(last.prompt, last.images, answer)]))
    begun = _ids(asked)
    behind = ids[len(begun) :]
    ends = [place for place, token in enumerate(behind) if token in stops]
    if ids[: len(begun)] == begun and ends and ends[0]:
        return behind[: ends[0]]
    # No end token in the template: what is behind the answer cannot be told from it.
    tokenizer = getattr(processor, "tokenizer", processor)
    return list(tokenizer(answer, add_special_tokens=False)["input_ids"])


def _ids(prompt: Prompt) -> list[int]:
    return prompt.inputs["input_ids"][0].tolist()
