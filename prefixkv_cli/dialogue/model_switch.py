"""`/model`: another model goes on with the same pictures, under the same budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.errors import PrefixKVError
from prefixkv_cli import output

if TYPE_CHECKING:
    from prefixkv_cli.dialogue.talk import Talk


def switch_model(talk: Talk, name: str) -> None:
    """Load another model and begin a conversation with it; says what does not come along.

    The pictures, the budget, the method, the codec, the system text and how answers are drawn do. What was said does
    not: another model's answers are not its own. Both models are in memory until the other one is loaded.

    Args:
        talk: its conversation is replaced.
        name: as for `--model`.

    Raises:
        PrefixKVError: the model cannot be had; the conversation is what it was.
    """
    if talk.load is None:
        raise PrefixKVError("there is no other model to be had here")
    now = talk.conversation
    pictures = [image for image, _ in talk.pictures()]
    loaded = talk.load(name)
    from prefixkv.chat.conversation import Conversation

    budget = now.cache.budget if now.config is None else now.config.as_budget()
    fresh = Conversation(
        loaded, budget, now.cache.method, now.sampling, output.notice, now.template_args, codec=now.cache.codec
    )
    fresh.max_pixels, fresh.keep_marks = now.max_pixels, now.keep_marks
    lost = [f"{len(now.history)} turns are put aside"] if now.history else []
    if now.config is not None:
        lost.append("the layers' shares of the configuration were the other model's")
    if now.system:
        try:
            fresh.instruct(now.system)
        except PrefixKVError as error:
            lost.append(str(error))
    if loaded.takes_images:
        for picture in pictures:
            fresh.attach(picture)
    elif pictures:
        lost.append("it reads no images: the pictures are left out")
    talk.conversation = fresh
    kept = f"{len(pictures)} pictures go with the next question" if pictures and loaded.takes_images else ""
    output.status("; ".join([f"model {loaded.id}", *lost, *([kept] if kept else [])]))
