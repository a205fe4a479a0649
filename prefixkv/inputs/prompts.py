"""A conversation as model inputs: rendered by the model's own chat template, images and all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.picture_inputs import unread_pictures
from prefixkv.models.pretrained import chat_template


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
        """Render and tokenize.

        Raises:
            PrefixKVError: the template, the tokenizer or the processor does not take this conversation.
        """
        self._check_texts()
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
            raise PrefixKVError(f"the model's processor does not take this question: {_reason(error)}") from error
        # One text has no padding; and labels, which one processor adds, would mean training.
        for name in ("attention_mask", "labels"):
            self.inputs.pop(name, None)
        self._cut_marks(behind)

    def _check_texts(self) -> None:
        """Refuse what would be read as something else.

        A text that has the model's own mark of a picture would be taken for one more picture; and bytes that are no
        UTF-8, which an argument or a file name may have, are no text for a tokenizer.
        """
        texts = [self.system, *(text for turn in self.turns for text in (turn.prompt, turn.answer) if text)]
        marks = self._picture_marks()
        for text in texts:
            if mark := next((mark for mark in marks if mark in text), None):
                raise PrefixKVError(
                    f"the text holds {mark!r}, which is this model's mark of a picture: write it otherwise"
                )
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise PrefixKVError("the text holds bytes that are no UTF-8: give it in UTF-8")

    def _picture_marks(self) -> set[str]:
        """What stands for a picture, a film or a sound in the model's texts."""
        holders = (self.processor, getattr(self.processor, "tokenizer", None))
        named = [item for holder in holders if holder is not None for item in vars(holder).items()]
        for holder in holders:
            named += getattr(holder, "special_tokens_map", {}).items()
        return {mark for name, mark in named if _MARK_NAME.fullmatch(name) and isinstance(mark, str) and len(mark) > 2}

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
        """The text, with the template's own marks for images.

        Raises:
            PrefixKVError: the template does not take this conversation.
        """
        template = chat_template(self.processor)
        if template is None:
            spoken = [text for turn in self.turns for text in (turn.prompt, turn.answer) if text is not None]
            return self._marks(self.images) + "\n".join([self.system, *spoken] if self.system else spoken)
        errors: list[Exception] = []
        for user_parts, other_parts in _FORMS if hasattr(self.processor, "tokenizer") else _FORMS[-1:]:
            messages = self._messages(user_parts, other_parts)
            options = {"chat_template": template, "add_generation_prompt": True, "tokenize": False}
            try:
                text = str(self.processor.apply_chat_template(messages, **options))
            # A template is a program: it may raise anything.
            except Exception as error:
                errors.append(error)
                continue
            # A template that reads plain texts may also print the list that it is given.
            if not _PRINTED_PART.search(text):
                return text
            errors.append(ValueError("it prints the parts of a message instead of reading them"))
        raise PrefixKVError(
            f"the model's chat template does not take this conversation: {_reason(errors[0])}"
        ) from errors[0]

    def _messages(self, user_parts: bool, other_parts: bool) -> list[dict[str, Any]]:
        """The conversation as a template reads it.

        Args:
            user_parts: whether a question is a list of pictures and texts, or a text with the marks of its pictures.
            other_parts: the same of instructions and answers.
        """
        spoken: list[tuple[str, str, int]] = [("system", self.system, 0)] if self.system else []
        for turn in self.turns:
            spoken.append(("user", turn.prompt, len(turn.images)))
            if turn.answer is not None:
                spoken.append(("assistant", turn.answer, 0))
        messages = []
        for role, text, images in spoken:
            parts = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
            as_parts = user_parts if role == "user" else other_parts
            messages.append({"role": role, "content": parts if as_parts else self._marks(images) + text})
        return messages

    def _marks(self, images: int) -> str:
        return (getattr(self.processor, "image_token", None) or "") * images


_FORMS = ((True, True), (True, False), (False, False))
"""Whether questions, and whether instructions and answers, are lists of parts. Most processors' templates read lists;
some read lists for questions only; tokenizers', and some processors', read plain texts."""
_PRINTED_PART = re.compile(r"""\{['"]type['"]: ?['"](image|text)['"]""")
_MARK_NAME = re.compile(r"(boi|eoi|(.*_)?(image|video|audio|vision)(_.*)?)_token")
"""Attributes of processors and tokenizers that hold a mark of a picture, a film or a sound."""


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
