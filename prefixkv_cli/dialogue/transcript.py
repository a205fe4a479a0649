"""A conversation as a file to read, or to read by a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.documents import write_json, write_whole
from prefixkv.errors import OptionError

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation


def write_transcript(conversation: Conversation, path: Path) -> None:
    """Write all turns; an older file is replaced only by a whole one.

    Args:
        conversation: between two answers.
        path: ends in .md or .json.

    Raises:
        OptionError: it ends in something else.
        PrefixKVError: the place cannot be written.
    """
    if path.suffix not in (".md", ".json"):
        raise OptionError(f"file {str(path)!r} has no form that is known: give a name that ends in .md or .json")
    if path.suffix == ".json":
        write_json(path, transcript(conversation))
    else:
        write_whole(path, _markdown(transcript(conversation)).encode(errors="replace"))


def transcript(conversation: Conversation) -> dict[str, Any]:
    """All turns as plain values, for JSON."""
    cache = conversation.cache
    return {
        "model": conversation.loaded.id,
        "method": cache.method.name,
        "codec": cache.codec.name,
        "budget": cache.budget.text,
        "system": conversation.system,
        "turns": [
            {
                "question": turn.prompt,
                "pictures": [image.info.get("name", "picture") for image in turn.images],
                "answer": answer.text,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.prompt_tokens,
                "new_tokens": answer.new_tokens,
                "seconds": {"prefill": answer.prefill_seconds, "decode": answer.decode_seconds},
            }
            for turn, answer in conversation.history
        ],
        "kv": conversation.usage().as_dict(),
    }


def _markdown(content: dict[str, Any]) -> str:
    kv = content["kv"]
    parts = [
        f"# Conversation with {content['model']}",
        f"Method {content['method']}, budget {content['budget']}: kept {kv['kept_tokens_fraction']:.1%} of the tokens "
        f"in {kv['codec']}, {kv['bits']:.3g} bits: {kv['kept_bytes']:,} of {kv['full_bytes']:,} bytes.",
    ]
    if content["system"]:
        parts.append(f"System: {content['system']}")
    for turn in content["turns"]:
        pictures = "".join(f"\n\n*Picture: {name}*" for name in turn["pictures"])
        stopped = " *(stopped)*" if turn["finish_reason"] == "interrupted" else ""
        parts.append(f"## {turn['question']}{pictures}\n\n{turn['answer']}{stopped}")
    return "\n\n".join(parts) + "\n"
