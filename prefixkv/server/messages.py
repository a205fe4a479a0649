"""Messages of OpenAI's API made into the turns of a conversation. Knows nothing of torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from prefixkv.errors import OptionError
from prefixkv.inputs.parts import read_parts
from prefixkv.inputs.picture_source import open_source
from prefixkv.inputs.turn import Layout, Turn, prompt_of
from prefixkv.schemas.chat_request import MessageSchema
from prefixkv.schemas.field import shown

_DATA = re.compile(r"data:", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)

Intake = Callable[[Sequence[Image.Image]], tuple[Image.Image, ...]]


def read_messages(
    messages: Sequence[MessageSchema], intake: Intake, fetch: Callable[[str], bytes] | None = None
) -> tuple[str, list[Turn]]:
    """Take a conversation apart; several questions in a row are one.

    Args:
        messages: at least one.
        intake: makes opened pictures such as the model's processor may have.
        fetch: what a server has under an address; None where addresses are not allowed.

    Returns:
        The instructions, empty for none, and the turns, the last without an answer.

    Raises:
        OptionError: the messages do not make a conversation that ends in a question.
        PrefixKVError: a picture cannot be read.
    """
    instructions: list[str] = []
    turns: list[Turn] = []
    for number, message in enumerate(messages, start=1):
        is_answered = not turns or turns[-1].answer is not None
        if message.role in ("system", "developer"):
            if turns:
                raise OptionError(f"message {number} is a {message.role} message behind a question: put it first")
            instructions.append(_text(message, number))
        elif message.role == "assistant":
            if is_answered:
                raise OptionError(f"message {number} is an answer without a question: put a user message before it")
            turns[-1].answer = _text(message, number)
        else:
            turn = _question(message, intake, fetch)
            if is_answered:
                turns.append(turn)
            else:
                turns[-1] = _joined(turns[-1], turn)
    if not turns or turns[-1].answer is not None:
        raise OptionError("the last message is no question: end with a user message")
    return "\n\n".join(text for text in instructions if text), turns


def _text(message: MessageSchema, number: int) -> str:
    """The text of a message that may hold no picture."""
    if isinstance(message.content, str):
        return message.content
    parts = read_parts(message.content)
    if parts.pictures:
        raise OptionError(f"message {number} has a picture and is no user message: move it to a question")
    return parts.prompt


def _question(message: MessageSchema, intake: Intake, fetch: Callable[[str], bytes] | None) -> Turn:
    if isinstance(message.content, str):
        return Turn(message.content)
    parts = read_parts(message.content)
    pictures = intake([_picture(source, fetch) for source in parts.pictures])
    # Pictures and then one text is how a question is usually put, and then nothing needs to be said of it.
    is_usual = parts.layout == (*(None for _ in pictures), parts.layout[-1])
    if is_usual:
        return Turn(str(parts.layout[-1]), pictures)
    return Turn(parts.prompt, pictures, layout=parts.layout)


def _picture(source: object, fetch: Callable[[str], bytes] | None) -> Image.Image:
    if isinstance(source, str) and _DATA.match(source):
        return open_source(source)
    if isinstance(source, str) and _WEB.match(source):
        if fetch is None:
            raise OptionError(
                f"image {shown(source)} is an address, and the server fetches none: send the picture as "
                "data:image/png;base64,CONTENT, or start the server with --allow-addresses"
            )
        return open_source(source, fetch=fetch)
    raise OptionError(f"image {shown(source)} is no data: address: give data:image/png;base64,CONTENT")


def _joined(first: Turn, second: Turn) -> Turn:
    layout: Layout = (*first.content, *second.content)
    return replace(first, prompt=prompt_of(layout), images=(*first.images, *second.images), layout=layout)
