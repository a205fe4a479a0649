"""What `--json` and `--json-lines` say about one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefixkv_cli import output

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation


def turn_record(conversation: Conversation) -> dict[str, Any]:
    """The last answer, what it cost, what the cache holds after it, and `warnings` where notices were said for it.

    Args:
        conversation: with at least one turn.
    """
    answer = conversation.last_answer
    assert answer is not None
    cache = conversation.cache
    warnings = output.take_notices()
    return {
        "answer": answer.text,
        "model": conversation.loaded.id,
        "method": cache.method.name,
        "codec": cache.codec.name,
        "budget": cache.budget.text,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        "finish_reason": answer.finish_reason,
        "kv": conversation.usage().as_dict(),
        "seconds": {
            "load": conversation.loaded.load_seconds,
            "prefill": answer.prefill_seconds,
            "decode": answer.decode_seconds,
        },
        "tokens_per_second": answer.tokens_per_second,
        "peak_device_bytes": conversation.peak_device_bytes(),
        **({"warnings": warnings} if warnings else {}),
    }
