"""One conversation of thousands of turns at a fixed budget: what the process takes must not grow with it.

`PYTHONMALLOC=malloc python -m tests.fuzz.endurance RESULT [TURNS]` on Linux with glibc; ends with 1 where what is in
use grows by more than `MOST_TURN_BYTES` a turn. With Python's own allocator its small objects would not be counted.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import psutil
import torch
import transformers

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.documents import write_json
from prefixkv.generation.sampling import Sampling
from tests.families import tiny_models
from tests.families.checks import loaded
from tests.families.tiny_tokenizer import WORDS

POSITIONS = 65_536
BUDGET, METHOD = "512tok", "prefixkv"
QUESTION_WORDS, NEW_TOKENS = 13, 12
WARM_UP_TURNS, TURNS_APART = 200, 50
MOST_TURN_BYTES = 1024


class _Heap(ctypes.Structure):
    """What `mallinfo2` of glibc returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "a", "b", "c", "mapped", "d", "e", "used", "f", "g")]


def main(result: Path, turns: int) -> int:
    """Hold the conversation, and write what it takes as it goes on."""
    torch.manual_seed(0)
    tiny = tiny_models.llava()
    tiny.model.config.get_text_config().max_position_embeddings = POSITIONS
    random = Random("endurance")
    talk = Conversation(loaded(tiny), BUDGET, METHOD, Sampling(max_new_tokens=NEW_TOKENS), notify=_refuse)
    began, points, growth = time.monotonic(), list[dict[str, Any]](), 0.0
    for turn in range(1, turns + 1):
        words = " ".join(random.choice(WORDS) for _ in range(QUESTION_WORDS))
        "".join(talk.ask(words, tiny.pictures[:1] if turn == 1 else None))
        if turn % TURNS_APART == 0:
            point = {"turn": turn, "tokens": len(talk.reading.tokens), "seconds": round(time.monotonic() - began)}
            points.append(point | _memory() | {"kept_bytes": talk.usage().kept_bytes})
            growth = _growth([point for point in points if point["turn"] >= WARM_UP_TURNS], "live_bytes")
            _write(result, points, growth)
            print(json.dumps(points[-1]), flush=True)
    print(f"{turns:,} turns, {points[-1]['tokens']:,} tokens: {growth:+.0f} bytes a turn")
    return 1 if growth > MOST_TURN_BYTES else 0


def _write(result: Path, points: list[dict[str, Any]], growth: float) -> None:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "prefixkv": prefixkv.__version__}
    setting = {"budget": BUDGET, "method": METHOD, "positions": POSITIONS, "new_tokens": NEW_TOKENS}
    resident = _growth([point for point in points if point["turn"] >= WARM_UP_TURNS], "resident_bytes")
    facts = {"turns": points[-1]["turn"], "tokens": points[-1]["tokens"], "live_bytes_a_turn": round(growth)}
    facts |= {"resident_bytes_a_turn": round(resident), "warm_up_turns": WARM_UP_TURNS}
    write_json(result, facts | setting | {"versions": versions, "points": points})


def _refuse(text: str) -> None:
    """Nothing is read again, and nothing else is to be said."""
    if not text.startswith("guided works without"):
        raise AssertionError(text)


def _memory() -> dict[str, int]:
    """Bytes that are in use, and bytes of this process once what is free was given back.

    A turn renders the whole conversation again, and what it frees leaves gaps: the second grows where the first does
    not.
    """
    gc.collect()
    c = ctypes.CDLL("libc.so.6")
    c.malloc_trim(0)
    c.mallinfo2.restype = _Heap
    heap = c.mallinfo2()
    return {"live_bytes": heap.used + heap.mapped, "resident_bytes": psutil.Process().memory_info().rss}


def _growth(points: list[dict[str, Any]], name: str) -> float:
    """Bytes a turn, by least squares; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    middle = sum(point["turn"] for point in points) / len(points)
    mean = sum(point[name] for point in points) / len(points)
    spread = sum((point["turn"] - middle) ** 2 for point in points)
    return float(sum((point["turn"] - middle) * (point[name] - mean) for point in points) / spread)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 2000))
