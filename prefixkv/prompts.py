"""A conversation as model inputs: rendered by the model's own chat template, images and all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image


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
        inputs: the model's inputs for all of it.
    """

    processor: Any
    turns: Sequence[Turn]
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
        self.inputs.pop("attention_mask", None)

    @property
    def tokens(self) -> int:
        """Length of the whole, in tokens."""
        return self.inputs["input_ids"].shape[1]

    def after(self, read: list[int]) -> dict[str, torch.Tensor] | None:
        """The inputs without what was read already.

        Args:
            read: token ids, from the beginning of the conversation.

        Returns:
            The new tokens and the new turn's images; None where the conversation does not begin with `read`, or its
            images cannot be told apart.
        """
        ids = self.inputs["input_ids"]
        if len(read) >= ids.shape[1] or ids[0, : len(read)].tolist() != read:
            return None
        rest = {}
        new_images = len(self.turns[-1].images)
        all_images = sum(len(turn.images) for turn in self.turns)
        for name, value in self.inputs.items():
            if value.shape == ids.shape:
                rest[name] = value[:, len(read) :]
            elif new_images and len(value) == all_images:
                rest[name] = value[-new_images:]
            elif new_images:
                return None
        return rest

    def _render(self) -> str:
        """The text, with the template's own marks for images."""
        if not getattr(self.processor, "chat_template", None):
            spoken = [text for turn in self.turns for text in (turn.prompt, turn.answer) if text is not None]
            return "\n".join(spoken)
        tokenizer_only = not hasattr(self.processor, "tokenizer")
        messages: list[dict[str, Any]] = []
        for turn in self.turns:
            for role, text, images in (("user", turn.prompt, turn.images), ("assistant", turn.answer, ())):
                if text is None:
                    continue
                parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
                messages.append({"role": role, "content": text if tokenizer_only else parts})
        return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
