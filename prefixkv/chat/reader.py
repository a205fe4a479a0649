"""What stands between a conversation's prompts and its cache: reads what is new, and writes the answer."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.chat.reading import Reading
from prefixkv.engine.decoding import decode
from prefixkv.generation.answer import Answer, AnswerWriter
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import shaping_of
from prefixkv.generation.special_tokens import left_out
from prefixkv.generation.stop_text import stop_texts
from prefixkv.inputs.positions import answer_room
from prefixkv.inputs.prompts import Prompt
from prefixkv.inputs.token_ids import picture_token, stop_tokens
from prefixkv.models.loading import LoadedModel, Notify

MANY_PICTURE_TOKENS = 4096
"""So many tokens of pictures are said before they are read: a photograph in full size can be four times as many."""


class Reader:
    """Reads prompts into one compressed cache, each from where the one before it has ended.

    Attributes:
        loaded: the model.
        cache: the compressed cache.
        reading: what the cache has read.
        keep_marks: whether special tokens are part of the answers.
    """

    def __init__(self, loaded: LoadedModel, cache: PrefixKVCache, notify: Notify, keep_marks: bool = False) -> None:
        """Begin with an empty cache.

        Args:
            loaded: the model.
            cache: made for it.
            notify: called where something is read again, or shortened.
            keep_marks: see `prefixkv.generation.special_tokens.left_out`.
        """
        self.loaded, self.cache, self._notify, self.keep_marks = loaded, cache, notify, keep_marks
        self.reading = Reading()

    def restart(self) -> None:
        """Free the cache: what comes next is read from the beginning."""
        self.cache.reset()
        self.reading = Reading()

    def read(self, prompt: Prompt) -> None:
        """Read a prompt as far as its pictures go; nothing where they were read already.

        Args:
            prompt: ends in a question whose text is not known yet.

        Raises:
            PrefixKVError: the model has no positions left.
        """
        end = prompt.end_of_pictures(picture_token(self.loaded))
        if end <= len(self.reading.tokens):
            return
        answer_room(self.loaded.model.config, end)
        inputs = self._unread(prompt, until=end)
        with attention.installed(self.loaded.model):
            steps = decode(self.loaded.model, inputs, self.cache, Sampling(max_new_tokens=1), (), notify=self._notify)
            next(steps)
            steps.close()
        self._note(inputs, prompt)

    def answer(
        self, render: Callable[[], Prompt], sampling: Sampling, end: Callable[[Answer], None]
    ) -> Generator[str, None, None]:
        """Read what is new in a prompt and write what the model says to it.

        Args:
            render: makes the prompt, which is the whole conversation; the time for it is the answer's, too.
            sampling: how tokens are chosen.
            end: called with the answer, also where the reader of the pieces has stopped; not where no token was made.

        Yields:
            Pieces of the answer.

        Raises:
            PrefixKVError: the model has no positions left.
        """
        model, stops = self.loaded.model, stop_tokens(self.loaded)
        silent = left_out(self.loaded.processor, stops, self.keep_marks)
        writer = AnswerWriter(self.loaded.tokenizer, stops, stop_texts(sampling, model.generation_config), silent)
        prompt = render()
        sampling = sampling.within(answer_room(model.config, prompt.tokens), self._notify)
        inputs = self._unread(prompt)
        shaping = shaping_of(model, prompt.inputs["input_ids"], sampling.max_new_tokens)
        with attention.installed(model):
            steps = decode(model, inputs, self.cache, sampling, stops, notify=self._notify, shaping=shaping)
            try:
                for token in steps:
                    if writer.tokens == 0:
                        self._note(inputs, prompt)
                    else:
                        self.reading.add([writer.last_token], None, generated=True)
                    if piece := writer.push(token):
                        yield piece
                    if writer.has_stopped:
                        break
                if piece := writer.end():
                    yield piece
            finally:
                steps.close()
                if writer.tokens:
                    end(writer.answer(prompt.tokens))

    def _unread(self, prompt: Prompt, until: int | None = None) -> dict[str, Any]:
        """Model inputs for what the cache has not read, up to a token."""
        rest = prompt.after(self.reading.tokens, self.reading.images, until)
        if rest is None:
            self._notify("the conversation so far is read again: it is not spelt as the cache has read it")
            self.restart()
            rest = prompt.after([], 0, until)
            assert rest is not None
        self._say_many(rest["input_ids"])
        return self.loaded.on_device(rest)

    def _say_many(self, tokens: torch.Tensor) -> None:
        """Say that pictures take many tokens, before they are read, and what makes them fewer.

        Args:
            tokens: what is about to be read, (1, tokens), int64.
        """
        part = picture_token(self.loaded)
        count = 0 if part is None else int((tokens == part).sum())
        if count > MANY_PICTURE_TOKENS:
            self._notify(
                f"{count:,} of {tokens.shape[1]:,} tokens to be read are pictures': a smaller --max-pixels (max_pixels "
                "in Python), such as 1000000, makes them fewer where the model reads pictures in their own size"
            )

    def _note(self, inputs: dict[str, Any], prompt: Prompt) -> None:
        self.reading.add(inputs["input_ids"][0].tolist(), picture_token(self.loaded))
        self.reading.images = prompt.images
