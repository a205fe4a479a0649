"""A conversation as model inputs: rendered by the model's own chat template, images and all."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.images import picture_sha256
from prefixkv.inputs.picture_inputs import unread_pictures
from prefixkv.inputs.picture_marks import check_texts
from prefixkv.inputs.rendering import Rendering, reason
from prefixkv.inputs.turn import Turn
from prefixkv.models.pretrained import chat_template

__all__ = ["Prompt", "Turn"]

_PROCESSING = threading.RLock()
"""A tokenizer of transformers cannot be used by two threads at the same time, and engines make prompts in theirs."""


@dataclass
class Prompt:
    """The whole conversation, ending where the next answer begins.

    Attributes:
        processor: a processor or a bare tokenizer of transformers.
        turns: earlier turns with their answers, and last the one to be answered.
        system: instructions that come before everything, where the template knows them; empty for none.
        template_args: further values that the template may use, by name.
        inputs: the model's inputs for all of it.
    """

    processor: Any
    turns: Sequence[Turn]
    system: str = ""
    template_args: Mapping[str, Any] = field(default_factory=dict)
    inputs: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Render and tokenize.

        Raises:
            PrefixKVError: the template, the tokenizer or the processor does not take this conversation.
        """
        with _PROCESSING:
            self._process()

    def _process(self) -> None:
        spoken = (text for turn in self.turns for text in (*turn.content, turn.answer) if text)
        check_texts([self.system, *spoken], self.processor)
        text = self._render()
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        options: dict[str, Any] = {"return_tensors": "pt"}
        before, behind = self._added_marks(tokenizer)
        if before and text.startswith(tokenizer.decode(before)):
            options["add_special_tokens"] = False
            behind = []
        images = [image for turn in self.turns for image in turn.images]
        if images:
            options["images"] = images
        try:
            self.inputs = dict(self.processor(text=[text], **options))
        # A processor raises errors of many kinds for a text or a picture that it cannot take.
        except Exception as error:
            raise PrefixKVError(f"the model's processor does not take this question: {reason(error)}") from error
        # One text has no padding; and labels, which one processor adds, would mean training.
        for name in ("attention_mask", "labels"):
            self.inputs.pop(name, None)
        self._cut_marks(behind)

    def _added_marks(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer adds before and behind a text by itself."""
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        marked = tokenizer("a")["input_ids"]
        start = next((i for i in range(len(marked)) if marked[i : i + len(plain)] == plain), None)
        return ([], []) if start is None else (marked[:start], marked[start + len(plain) :])

    def _cut_marks(self, behind: list[int]) -> None:
        """Take away what the tokenizer has added behind a prompt that a template has rendered: an answer follows it."""
        ids = self.inputs["input_ids"]
        if not behind or chat_template(self.processor) is None or ids[0, -len(behind) :].tolist() != behind:
            return
        end = ids.shape[1] - len(behind)
        for name, value in self.inputs.items():
            if value.shape == ids.shape:
                self.inputs[name] = value[:, :end]

    @property
    def tokens(self) -> int:
        """Length of the whole, in tokens."""
        return self.inputs["input_ids"].shape[1]

    @property
    def images(self) -> int:
        """Pictures in the whole."""
        return sum(len(turn.images) for turn in self.turns)

    @cached_property
    def picture_digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each picture, in order."""
        return tuple(bytes.fromhex(picture_sha256(image)) for turn in self.turns for image in turn.images)

    def portable(self) -> Prompt:
        """A copy for a process that has the same processor, and puts it in.

        The pictures of a first question are left out, their digests are not: nothing was read before it, so that
        `after`, which may need them, is not asked of it.
        """
        copied = copy.copy(self)
        # The copy has what this has looked up by then.
        copied.__dict__["picture_digests"] = self.picture_digests
        copied.processor = None
        if len(self.turns) == 1:
            copied.turns = [replace(self.turns[0], images=(), layout=None)]
        return copied

    def shows_system(self) -> bool:
        """Whether the template has found a place for the instructions."""
        try:
            return self.system.strip() in self._render()
        except PrefixKVError:
            # Some templates raise an error where others leave the instructions out.
            return False

    def end_of_pictures(self, picture_token: int | None) -> int:
        """Number of tokens up to and with the last one of a picture; 0 where there is none.

        Args:
            picture_token: the id that stands for a part of a picture.
        """
        if picture_token is None:
            return 0
        places = (self.inputs["input_ids"][0] == picture_token).nonzero()
        return int(places[-1]) + 1 if len(places) else 0

    def after(self, read: Sequence[int], read_images: int, until: int | None = None) -> dict[str, torch.Tensor] | None:
        """The inputs without what was read already.

        Args:
            read: token ids, from the beginning of the conversation.
            read_images: how many of its images these tokens hold.
            until: number of tokens, from the beginning, to stop at; all where None.

        Returns:
            The new tokens and images; None where the conversation does not begin with `read`, or its images cannot be
            told apart.
        """
        ids = self.inputs["input_ids"]
        if len(read) >= ids.shape[1] or not ids[0, : len(read)].equal(ids.new_tensor(read)):
            return None
        rest = {name: value[:, len(read) : until] for name, value in self.inputs.items() if value.shape == ids.shape}
        if "token_type_ids" in rest:
            # Models that let tokens see later ones look a token's kind up by its place in the whole text.
            rest["token_type_ids"] = self.inputs["token_type_ids"][:, :until]
        if read_images == self.images:
            return rest
        tensors = {name: value for name, value in self.inputs.items() if name not in rest}
        unread = unread_pictures(tensors, read_images, self.images, lambda: self._first_images(read_images))
        return None if unread is None else rest | unread

    def _first_images(self, count: int) -> dict[str, torch.Tensor]:
        """The picture tensors of the first images alone."""
        turns, left = [], count
        for turn in self.turns:
            turns.append(turn.with_first_images(left))
            left -= len(turns[-1].images)
        first = Prompt(self.processor, turns, self.system, self.template_args)
        return {name: value for name, value in first.inputs.items() if value.shape != first.inputs["input_ids"].shape}

    def _render(self) -> str:
        return Rendering(self.processor, self.turns, self.system, self.template_args).text()
