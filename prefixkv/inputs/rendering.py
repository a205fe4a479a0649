"""A conversation as the one text that a model reads: the model's own chat template renders it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.turn import Turn
from prefixkv.models.pretrained import chat_template

_FORMS = ((True, True), (True, False), (False, False))
"""Whether questions, and whether instructions and answers, are lists of parts. Most processors' templates read lists;
some read lists for questions only; tokenizers', and some processors', read plain texts."""
_PRINTED_PART = re.compile(r"""\{['"]type['"]: ?['"](image|text)['"]""")


@dataclass(frozen=True)
class Rendering:
    """What is told to the model, and how.

    Attributes:
        processor: a processor or a bare tokenizer of transformers.
        turns: earlier turns with their answers, and last the one to be answered.
        system: instructions that come before everything; empty for none.
        template_args: further values that the template may use, by name.
    """

    processor: Any
    turns: Sequence[Turn]
    system: str = ""
    template_args: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The text, with the template's own marks for images.

        Raises:
            PrefixKVError: the template does not take this conversation.
        """
        template = chat_template(self.processor)
        if template is None:
            images = sum(len(turn.images) for turn in self.turns)
            spoken = [text for turn in self.turns for text in (turn.prompt, turn.answer) if text is not None]
            return self._marks(images) + "\n".join([self.system, *spoken] if self.system else spoken)
        errors: list[Exception] = []
        for user_parts, other_parts in _FORMS if hasattr(self.processor, "tokenizer") else _FORMS[-1:]:
            messages = self._messages(user_parts, other_parts)
            options = {"chat_template": template, "add_generation_prompt": True, "tokenize": False}
            try:
                text = str(self.processor.apply_chat_template(messages, **{**self.template_args, **options}))
            # A template is a program: it may raise anything.
            except Exception as error:
                errors.append(error)
                continue
            # A template that reads plain texts may also print the list that it is given.
            if not _PRINTED_PART.search(text):
                return text
            errors.append(ValueError("it prints the parts of a message instead of reading them"))
        raise PrefixKVError(
            f"the model's chat template does not take this conversation: {reason(errors[0])}"
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


def reason(error: BaseException) -> str:
    """The reason that an error of transformers or of a template gives, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
