"""A conversation as model inputs: rendered by the model's own chat template, images and all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from prefixkv.inputs.picture_inputs import unread_pictures


@dataclass(eq=False)
class Turn:
    """One question with its images, and the answer once there is one."""

    prompt: str
    images: tuple[Image.Image, ...] = ()
    answer: str | None = None


@dataclass
class Prompt:
    """The whole conversation, ending where the next answer begins.

    Attributes:
        processor: a processor or a bare tokenizer of transformers.
        turns: earlier turns with their answers, and last the one to be answered.
        system: instructions that come before everything, where the template knows them; empty for none.
        inputs: the model's inputs for all of it.
    """

    processor: Any
    turns: Sequence[Turn]
    system: str = ""
    inputs: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Render and tokenize."""
        text = self._render()
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        options: dict[str, Any] = {"return_tensors": "pt"}
        if tokenizer.bos_token and text.startswith(tokenizer.bos_token):
            options["add_special_tokens"] = False
        images = [image for turn in self.turns for image in turn.images]
        if images:
            options["images"] = images
        self.inputs = dict(self.processor(text=[text], **options))
        # One text has no padding; and labels, which one processor adds, would mean training.
        for name in ("attention_mask", "labels"):
            self.inputs.pop(name, None)

    @property
    def tokens(self) -> int:
        """Length of the whole, in tokens."""
        return self.inputs["input_ids"].shape[1]

    @property
    def images(self) -> int:
        """Pictures in the whole."""
        return sum(len(turn.images) for turn in self.turns)

    def shows_system(self) -> bool:
        """Whether the template has found a place for the instructions."""
        return self.system in self._render()

    def end_of_pictures(self, picture_token: int | None) -> int:
        """Number of tokens up to and with the last one of a picture; 0 where there is none.

        Args:
            picture_token: the id that stands for a part of a picture.
        """
        if picture_token is None:
            return 0
        places = (self.inputs["input_ids"][0] == picture_token).nonzero()
        return int(places[-1]) + 1 if len(places) else 0

    def after(self, read: list[int], read_images: int, until: int | None = None) -> dict[str, torch.Tensor] | None:
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
        if len(read) >= ids.shape[1] or ids[0, : len(read)].tolist() != read:
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
            turns.append(Turn(turn.prompt, turn.images[:left], turn.answer))
            left -= len(turns[-1].images)
        first = Prompt(self.processor, turns, self.system)
        return {name: value for name, value in first.inputs.items() if value.shape != first.inputs["input_ids"].shape}

    def _render(self) -> str:
        """The text, with the template's own marks for images."""
        if not getattr(self.processor, "chat_template", None):
            spoken = [text for turn in self.turns for text in (turn.prompt, turn.answer) if text is not None]
            marks = getattr(self.processor, "image_token", "") * self.images
            return marks + "\n".join([self.system, *spoken] if self.system else spoken)
        tokenizer_only = not hasattr(self.processor, "tokenizer")
        messages: list[dict[str, Any]] = []
        if self.system:
            content = self.system if tokenizer_only else [{"type": "text", "text": self.system}]
            messages.append({"role": "system", "content": content})
        for turn in self.turns:
            for role, text, images in (("user", turn.prompt, turn.images), ("assistant", turn.answer, ())):
                if text is None:
                    continue
                parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
                messages.append({"role": role, "content": text if tokenizer_only else parts})
        return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
