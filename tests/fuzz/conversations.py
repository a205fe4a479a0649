"""Random conversations with turns taken back: what is left is as if the others had never been asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from prefixkv.chat.conversation import UNDO_TURNS, Conversation
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import METHODS
from tests.families.checks import loaded
from tests.families.tiny_models import Tiny
from tests.families.tiny_tokenizer import WORDS

BUDGETS = ("100%", "60%", "30%", "10%", "40tok", "90tok")


def random_conversations(tiny: Tiny, random: Random) -> Iterator[Callable[[], Any]]:
    """Conversations without end."""
    model = loaded(tiny)
    while True:
        yield lambda: _conversation(model, tiny, random)


def _conversation(model: Any, tiny: Tiny, random: Random) -> None:
    sampling = Sampling(max_new_tokens=random.choice((1, 4, 9)), temperature=random.choice((0.0, 0.0, 0.9)), seed=3)
    kind = random.choice(BUDGETS), random.choice(list(METHODS)), sampling
    talk, asked = Conversation(model, *kind), []
    answers: list[str] = []
    room = 0
    for _ in range(random.randint(2, 6)):
        if room and random.random() < 0.35:
            talk.undo()
            talk._waiting.clear()
            asked.pop()
            answers.pop()
            room -= 1
        else:
            words = " ".join(random.choice(WORDS) for _ in range(random.choice((1, 5, 30))))
            turn = words, tiny.pictures[:1] if random.random() < 0.3 else ()
            asked.append(turn)
            answers.append("".join(talk.ask(*turn)))
            room = min(room + 1, UNDO_TURNS)
    again = Conversation(model, *kind)
    assert ["".join(again.ask(*turn)) for turn in asked] == answers, "answers differ from those without what was undone"
    if asked:
        assert again.usage().kept_bytes == talk.usage().kept_bytes, "another number of bytes is kept"
