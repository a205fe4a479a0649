"""The line below the prompt: which model answers, under which rule, and what its cache holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.policy.budget import format_bytes
from prefixkv_cli.tables.cache_report import allowed_bytes

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation


def status_bar(conversation: Conversation) -> str:
    """One line; what matters most stands first, since a narrow terminal cuts its end.

    Args:
        conversation: between two answers.
    """
    cache = conversation.cache
    # Of an id or a folder, the end is what tells models apart.
    model = conversation.loaded.id.rstrip("/\\").replace("\\", "/").split("/")[-1]
    parts = [model, cache.method.name, f"budget {cache.budget.text}"]
    # Not a whole report, which counts the kinds of entries token by token: a long conversation has many.
    usage = conversation.usage()
    layers = usage.layers
    seen = sum(layer.seen_tokens for layer in layers)
    if not seen:
        return " · ".join([*parts, "nothing read yet"])
    used, room = format_bytes(usage.kept_bytes), allowed_bytes(cache, usage)
    allowed = "" if room is None else f" of {format_bytes(room)}"
    kept = sum(layer.kept_tokens for layer in layers) / seen
    return " · ".join([*parts, f"{used}{allowed} used", f"{kept:.0%} of {layers[0].seen_tokens:,} tokens kept"])
