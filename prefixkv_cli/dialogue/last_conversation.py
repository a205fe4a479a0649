"""The conversation that ended last, kept without a name, so that `chat --continue` can go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefixkv.errors import PrefixKVError
from prefixkv.home import home
from prefixkv_cli import output
from prefixkv_cli.failures import Failure

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation


def last_conversation_file() -> Path:
    """Its file: beside the saved contexts' folder, where no name that a user gives can lead.

    Returns:
        The path, whether or not there is a file.
    """
    return home() / "last.safetensors"


def find_last_conversation() -> Path:
    """The file to go on from.

    Raises:
        PrefixKVError: no conversation has been kept yet.
    """
    path = last_conversation_file()
    if not path.exists():
        raise PrefixKVError("there is no conversation to continue yet: begin one, such as `prefixkv chat photo.jpg`")
    return path


def keep_last_conversation(conversation: Conversation) -> None:
    """Write the conversation in place of the one kept before; says how to go on, or why it could not be kept.

    Args:
        conversation: between two answers. One without turns is not kept: the one before it stays.
    """
    if not conversation.history:
        return
    from prefixkv.chat.context import save_context

    try:
        if not conversation.reading.tokens:
            # Nothing was asked since its budget, method or instructions were changed, and a file holds what was read.
            if not any(turn.images for turn, _ in conversation.history):
                raise PrefixKVError("nothing was asked since its budget, method or instructions were changed")
            output.status("reading the pictures again, to keep the conversation ...")
            conversation.read()
        save_context(conversation, last_conversation_file(), "last")
    # Whatever goes wrong here, the program ends as it would have ended without it.
    except Exception as error:
        output.notice(f"the conversation could not be kept: {Failure.of(error).message}")
        return
    output.status("the conversation is kept: go on with `prefixkv chat --continue`")
