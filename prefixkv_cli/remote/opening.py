"""What `chat` was asked for, made into a conversation with a server where there is one that can do it."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefixkv_cli import output
from prefixkv_cli.dialogue.opening import Opening
from prefixkv_cli.remote.choice import choose_server
from prefixkv_cli.remote.client import RemoteConversation, SentPicture

if TYPE_CHECKING:
    from PIL.Image import Image


def remote_conversation(opening: Opening, given: str | None, needs_engine: Sequence[str]) -> RemoteConversation | None:
    """Begin a conversation with a server.

    Args:
        opening: checked.
        given: `--server`.
        needs_engine: what else was asked for that only a model in this process can do.

    Returns:
        None where this process answers.

    Raises:
        OptionError: a server is named that cannot do what is asked for.
    """
    server = choose_server(given, opening.model, [*needs_engine, *_needs(opening)])
    if server is None:
        return None
    options: dict[str, Any] = {
        "budget": opening.budget,
        "method": opening.method,
        "codec": opening.codec,
        "max_completion_tokens": opening.sampling.max_new_tokens,
        "temperature": opening.sampling.temperature,
        "top_p": opening.sampling.top_p,
        "seed": opening.sampling.seed,
        "stop": list(opening.sampling.stop),
        "template_args": opening.parsed_template_args,
        "max_pixels": opening.max_pixels,
        "keep_marks": opening.keep_marks,
    }
    pictures = [sent_picture(picture) for picture in opening.pictures]
    talk = RemoteConversation(server, opening.system, pictures, options)
    return talk if given is not None or _can_answer(talk, opening) else None


def sent_picture(picture: Image) -> SentPicture:
    """A picture as a PNG file without anything beside its pixels."""
    from prefixkv.inputs.images import picture_facts

    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    url = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
    return SentPicture(str(picture.info.get("name", "picture")), url, picture_facts(picture))


def _needs(opening: Opening) -> list[str]:
    """What of a conversation's options only a model in this process can do."""
    placement = opening.placement
    asked = {
        "--context": opening.context is not None,
        "--config": opening.config is not None,
        "--no-profile": opening.no_profile,
        "--device": opening.device != "auto",
        "--dtype": opening.dtype != "auto",
        "--device-map": placement.device_map is not None,
        "--load-in-8bit": placement.bits == 8,
        "--load-in-4bit": placement.bits == 4,
        "--trust-remote-code": placement.trust_remote_code,
    }
    return [name for name, is_asked in asked.items() if is_asked]


def _can_answer(talk: RemoteConversation, opening: Opening) -> bool:
    """Whether the user's own server is there, and knows what the pictures show."""
    server = talk.server
    if not talk.is_there():
        output.notice(f"the server at {server.url} does not answer: the model is loaded here")
        return False
    if server.model == "demo" and opening.model == "auto" and opening.pictures:
        from prefixkv.demo.drawn import strange_pictures

        if strange := strange_pictures(opening.pictures):
            output.notice(f"the server at {server.url} is not asked: its demo model knows nothing of {strange[0]}")
            return False
    return True
