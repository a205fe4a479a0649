"""Saved contexts with something changed in head, header or tensors, and their digest made right again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from prefixkv.chat.context import load_context, save_context
from prefixkv.chat.context_file import DIGEST_KEY, HEAD_KEY, UNSEALED, read_head, seal
from prefixkv.chat.conversation import Conversation
from prefixkv.generation.sampling import Sampling
from tests.families.checks import loaded
from tests.families.tiny_models import Tiny
from tests.fuzz.mutation import changed, changed_bytes

QUESTION = "ba ce di fo gu"
ASKED = 0.2
"""Of the contexts that open, so many are asked a question, too."""


def mutated_contexts(folder: Path, tiny: Tiny, random: Random) -> Iterator[Callable[[], Any]]:
    """Cases without end: a context is changed, sealed, opened, and now and then asked a question."""
    model = loaded(tiny)
    originals = []
    for budget, method in (
        ("50%", "prefixkv"),
        ("40tok", "h2o"),
        ("20%", "guided"),
        ("100%", "full"),
        ("30%", "snapkv"),
    ):
        conversation = Conversation(model, budget, method, Sampling(max_new_tokens=6))
        "".join(conversation.ask(QUESTION, tiny.pictures[:1]))
        save_context(conversation, folder / "good.safetensors", "good")
        originals.append((folder / "good.safetensors").read_bytes())
    path = folder / "context.safetensors"

    def case() -> None:
        read_head(path)
        conversation = load_context(path, model, Sampling(max_new_tokens=3))
        if random.random() < ASKED:
            "".join(conversation.ask("na pe qu"))

    while True:
        path.write_bytes(_changed(random.choice(originals), random))
        yield case


def _changed(data: bytes, random: Random) -> bytes:
    start = 8 + int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8:start]), data[start:]
    metadata = header["__metadata__"]
    head = json.loads(metadata[HEAD_KEY])
    kind = random.randrange(4)
    if kind == 0:
        head = changed(head, random)
    elif kind == 1:
        name = random.choice([name for name in header if name != "__metadata__"])
        begin, end = header[name]["data_offsets"]
        part = bytearray(tensors[begin:end])
        for _ in range(random.choice((1, 1, 4, 32))):
            if part:
                place = random.randrange(len(part))
                part[place : place + 1] = random.choice((b"\xff", b"\x7f", b"\0", b"\x01", random.randbytes(1)))
        tensors = tensors[:begin] + bytes(part) + tensors[end:]
    elif kind == 2:
        header = changed(header, random)
    else:
        tensors = changed_bytes(tensors, random)
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        header["__metadata__"] |= {HEAD_KEY: json.dumps(head), DIGEST_KEY: UNSEALED}
    text = json.dumps(header, separators=(",", ":")).encode()
    whole = len(text).to_bytes(8, "little") + text + tensors
    try:
        return seal(whole)
    # The place of the digest is gone.
    except AssertionError:
        return whole
