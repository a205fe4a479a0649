"""The last question of a conversation asked again under another budget, on a cache of its own."""

from __future__ import annotations

from dataclasses import replace

from prefixkv.chat.conversation import Conversation
from prefixkv.errors import PrefixKVError


def asked_again(conversation: Conversation, budget: str) -> Conversation:
    """Read the conversation into a second cache under this budget, and ask its last question again.

    The conversation itself stays as it is: the two share the model and the pictures only. The earlier answers are those
    that were given; the last one is new.

    Args:
        conversation: between two answers.
        budget: what the second cache may keep, as `Budget.parse` reads it; method and codec are the first one's.

    Returns:
        The second conversation, after its answer.

    Raises:
        PrefixKVError: nothing was asked yet.
        BudgetTooSmallError: a hard limit cannot hold the method's protected entries.
        DeviceMemoryError: the device cannot hold both caches.
    """
    if not conversation.history:
        raise PrefixKVError("nothing was asked yet: ask about the picture first")
    cache = conversation.cache
    other = Conversation(
        conversation.loaded,
        budget,
        cache.method,
        conversation.sampling,
        template_args=conversation.template_args,
        keep_marks=conversation.keep_marks,
        codec=cache.codec,
    )
    *earlier, (last, _) = conversation.history
    turns, answers = tuple(turn for turn, _ in earlier), tuple(answer for _, answer in earlier)
    other.resume(replace(other.state(), system=conversation.system, turns=turns, answers=answers))
    asked = other.ask(last.prompt, last.images) if last.layout is None else other.ask(parts=last.parts)
    for _ in asked:
        pass
    return other
