"""A conversation's last question, asked again."""

from __future__ import annotations

from collections.abc import Generator

from prefixkv.chat.conversation import Conversation
from prefixkv.errors import PrefixKVError
from prefixkv.inputs.turn import Turn


def ask_again(conversation: Conversation) -> Generator[str, None, None]:
    """Take the newest turn back and ask its question again, each picture where it stood in the text.

    Args:
        conversation: between two answers.

    Returns:
        Pieces of the answer, as of `Conversation.ask`; where that ends in an error, the turn's pictures wait for the
        next question.

    Raises:
        PrefixKVError: there is no turn.
    """
    if not conversation.history or conversation.history[-1][0].layout is None:
        return conversation.ask(conversation.undo().prompt)
    return _as_it_stood(conversation, conversation.undo(attach=False))


def _as_it_stood(conversation: Conversation, turn: Turn) -> Generator[str, None, None]:
    try:
        yield from conversation.ask(parts=turn.parts)
    except PrefixKVError:
        for image in turn.images:
            conversation.attach(image)
        raise
