"""A conversation as the one text that a model reads: the model's own chat template renders it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.picture_marks import picture_marks
from prefixkv.inputs.time_limit import TimeUpError, within
from prefixkv.inputs.turn import Layout, Turn
from prefixkv.models.pretrained import chat_template
from prefixkv.transformers_compat import parse_template

_FORMS = ((True, True), (True, False), (False, False))
"""Whether questions, and whether instructions and answers, are lists of parts. Most processors' templates read lists;
some read lists for questions only; tokenizers', and some processors', read plain texts."""
TEMPLATE_SECONDS = 10
"""A template renders a long conversation in milliseconds. One that takes longer than this loops."""
_PRINTED_PART = re.compile(r"""\{['"]type['"]: ?['"](image|text)['"]""")

_OF_ANOTHER = "it is another model's, or broken; look at chat_template.jinja and tokenizer_config.json in its folder"


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
            PrefixKVError: the template does not take this conversation, or puts its pictures elsewhere.
        """
        text = self._text()
        for index, turn in enumerate(self.turns):
            if not turn.has_pictures_within:
                continue
            moved = [*self.turns[:index], turn.pictures_first(), *self.turns[index + 1 :]]
            parts = [part.strip() for part in turn.content if part is not None]
            if replace(self, turns=moved)._text() == text or any(part not in text for part in parts):
                raise PrefixKVError(
                    "the model's chat template has no place for pictures between texts: give them before the text, or "
                    "ask in several turns"
                )
        self._check(text)
        return text

    def _check(self, text: str) -> None:
        """Refuse a template that is another model's, and leaves out what is asked.

        Raises:
            PrefixKVError: the text holds no mark of a picture where there are some, or not the question.
        """
        if chat_template(self.processor) is None:
            return
        marks = picture_marks(self.processor)
        if marks and any(turn.images for turn in self.turns) and not any(mark in text for mark in marks):
            raise PrefixKVError(f"the model's chat template leaves the pictures out: {_OF_ANOTHER}")
        asked = [part.strip() for part in self.turns[-1].content if part is not None]
        # Some templates have white space of their own.
        if any(part not in text and "".join(part.split()) not in "".join(text.split()) for part in asked):
            raise PrefixKVError(f"the model's chat template leaves the question out: {_OF_ANOTHER}")

    def _text(self) -> str:
        template = chat_template(self.processor)
        if template is None:
            images = sum(len(turn.images) for turn in self.turns if turn.layout is None)
            told = [
                (turn.prompt if turn.layout is None else self._plain(turn.layout), turn.answer) for turn in self.turns
            ]
            spoken = [text for texts in told for text in texts if text is not None]
            return self._marks(images) + "\n".join([self.system, *spoken] if self.system else spoken)
        _refuse_powers(template)
        errors: list[Exception] = []
        for user_parts, other_parts in _FORMS if hasattr(self.processor, "tokenizer") else _FORMS[-1:]:
            messages = self._messages(user_parts, other_parts)
            options = {"chat_template": template, "add_generation_prompt": True, "tokenize": False}
            render = partial(self.processor.apply_chat_template, messages, **{**self.template_args, **options})
            try:
                text = str(within(TEMPLATE_SECONDS, render))
            except TimeUpError:
                raise PrefixKVError(
                    f"the model's chat template was not done after {TEMPLATE_SECONDS} s: {_OF_ANOTHER}"
                ) from None
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
        spoken: list[tuple[str, Layout]] = [("system", (self.system,))] if self.system else []
        for turn in self.turns:
            spoken.append(("user", turn.content))
            if turn.answer is not None:
                spoken.append(("assistant", (turn.answer,)))
        messages = []
        for role, layout in spoken:
            parts = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in layout]
            as_parts = user_parts if role == "user" else other_parts
            messages.append({"role": role, "content": parts if as_parts else self._plain(layout)})
        return messages

    def _plain(self, layout: Layout) -> str:
        """A question as one text, with the model's mark at the place of each picture."""
        return "".join(self._marks(1) if part is None else part for part in layout)

    def _marks(self, images: int) -> str:
        return (getattr(self.processor, "image_token", None) or "") * images


def _refuse_powers(template: str) -> None:
    """Refuse a template that computes a power: 9**9**9 is one instruction of Python, which nothing can end.

    Raises:
        PrefixKVError: it has one.
    """
    line = _power_line(template)
    if line is not None:
        raise PrefixKVError(f"the model's chat template computes a power (**) in line {line}: {_OF_ANOTHER}")


@lru_cache(maxsize=8)
def _power_line(template: str) -> int | None:
    """The line of a template's first power; parsed once, not for every prompt: that takes longer than rendering it."""
    import jinja2.nodes

    try:
        power = parse_template(template).find(jinja2.nodes.Pow)
    # What cannot be parsed is told of where it is rendered.
    except jinja2.TemplateError:
        return None
    return None if power is None else power.lineno


def reason(error: BaseException) -> str:
    """The reason that an error of transformers or of a template gives, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
