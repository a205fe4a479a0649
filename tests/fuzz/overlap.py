"""Random requests from many threads on one model: each is answered as it is alone, and the model stays what it was.

`python -m tests.fuzz.overlap RESULT [REQUESTS [THREADS [SEED]]]`; ends with 1 where one is not.
"""

from __future__ import annotations

import json
import platform
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
import transformers
from PIL import Image

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.documents import write_json
from prefixkv.engine.stream import Stream
from prefixkv.errors import PrefixKVError
from prefixkv.generation.detokenization import decoded
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.methods.table import METHODS
from prefixkv.models.loading import LoadedModel
from prefixkv.policy.codec import CODECS
from tests.small_demo import PICTURE_SIDE, small_demo

BUDGETS = ("100%", "60%", "35%", "20%", "10%", "3%", "30tok", "60tok", "24KiB", "64KiB", "2KiB")

WORDS = ("how", "many", "circles", "are", "there", "which", "colour", "is", "the", "square", "left", "of", "a", "red")
PICTURES = 5
"""Few, so that requests of the engine share what they begin with."""
MEMORY = "2MiB"
"""Of the engine: some requests wait for the memory of others."""

Way = Literal["engine", "generate", "conversation"]


@dataclass(frozen=True)
class Planned:
    """One request.

    Attributes:
        way: by which it is asked.
        question: text.
        picture: number of its picture; None for none.
        budget: of its cache.
        method: likewise.
        codec: likewise.
        sampling: how its tokens are chosen.
        cancelled_after: tokens, or pieces of text in a conversation, after which nobody wants the rest; None for never.
        deadline: seconds after which an answer of the engine ends; None for none.
    """

    way: Way
    question: str
    picture: int | None
    budget: str
    method: str
    codec: str
    sampling: Sampling
    cancelled_after: int | None
    deadline: float | None

    @classmethod
    def random(cls, random: Random) -> Planned:
        """Any."""
        way: Way = random.choice(("engine", "engine", "conversation", "generate"))
        temperature = 0.0 if way == "generate" else random.choice((0.0, 0.0, 0.9))
        return cls(
            way,
            " ".join(random.choice(WORDS) for _ in range(random.choice((1, 4, 20, 60)))),
            random.choice((None, *range(PICTURES))),
            random.choice(BUDGETS),
            random.choice(sorted(METHODS)),
            random.choice(("auto", "plain", *CODECS)),
            Sampling(random.choice((1, 3, 12, 24)), temperature, seed=random.randrange(2**31)),
            random.randrange(12) if way != "generate" and random.random() < 0.25 else None,
            random.choice((0.01, 0.2)) if way == "engine" and random.random() < 0.1 else None,
        )


def main(result: Path, requests: int, threads: int, seed: int) -> int:
    """Ask, and write what came of it."""
    facts = overlapping(small_demo(), requests, threads, seed)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "prefixkv": prefixkv.__version__}
    write_json(result, facts | {"versions": versions})
    print(json.dumps(facts, indent=1))
    return 1 if facts["differing"] or facts["changed"] else 0


def overlapping(loaded: LoadedModel, requests: int, threads: int, seed: int) -> dict[str, Any]:
    """Counts of requests that are asked one after the other, and then all at once.

    Args:
        loaded: the model.
        requests: how many.
        threads: that ask.
        seed: of the requests.
    """
    random = Random(f"overlap {seed}")
    planned = [Planned.random(random) for _ in range(requests)]
    before = _state(loaded.model)
    alone = [_outcome(partial(_alone, loaded, each)) for each in planned]
    began = time.monotonic()
    with prefixkv.Engine(loaded, memory=MEMORY, most_rows=9) as engine, ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(lambda each: _outcome(partial(_asked, loaded, each, engine)), planned))
        shared, reserved = engine.prefixes.shared, engine.reserved_bytes
    seconds = time.monotonic() - began
    differing = [
        f"{each}: {found!r} instead of {expected!r}"
        for each, expected, found in zip(planned, alone, together, strict=True)
        if not _agree(each, expected, found)
    ]
    ended = [
        isinstance(found, str) and len(found) < len(str(whole)) for whole, found in zip(alone, together, strict=True)
    ]
    after, left = _state(loaded.model), [each.name for each in threading.enumerate() if "prefixkv" in each.name]
    return {
        "requests": requests,
        "threads": threads,
        "seed": seed,
        "seconds": round(seconds),
        "refused": sum(isinstance(each, PrefixKVError) for each in together),
        "to_be_cancelled": sum(each.cancelled_after is not None for each in planned),
        "with_a_deadline": sum(each.deadline is not None for each in planned),
        "ended_early": sum(ended),
        "sharing_a_beginning": shared,
        "ways": dict(sorted(Counter(each.way for each in planned).items())),
        "methods": dict(sorted(Counter(each.method for each in planned).items())),
        "budgets": dict(sorted(Counter(each.budget for each in planned).items())),
        "codecs": dict(sorted(Counter(each.codec for each in planned).items())),
        "differing": differing,
        "changed": [*(["the model"] if before != after else []), *left, *([f"{reserved} bytes"] if reserved else [])],
    }


def _agree(planned: Planned, alone: str | Exception, together: str | Exception) -> bool:
    if isinstance(alone, Exception) or isinstance(together, Exception):
        return isinstance(alone, PrefixKVError) and str(alone) == str(together)
    if planned.cancelled_after is None and planned.deadline is None:
        return alone == together
    # The last piece of a text that ends early may be half a word, which is shown when the rest of it has come.
    return alone.startswith(together)


def _outcome(ask: Callable[[], str]) -> str | Exception:
    try:
        return ask()
    except Exception as error:
        return error


def _alone(loaded: LoadedModel, planned: Planned) -> str:
    """The whole answer, by an engine that nobody else asks."""
    with prefixkv.Engine(loaded, memory=MEMORY) as engine:
        return _text(loaded, _submitted(loaded, planned, engine).result(120))


def _asked(loaded: LoadedModel, planned: Planned, engine: prefixkv.Engine) -> str:
    if planned.way == "engine":
        stream = _submitted(loaded, planned, engine, planned.deadline)
        if planned.cancelled_after is not None:
            list(islice(stream, planned.cancelled_after))
            stream.cancel()
        return _text(loaded, stream.result(300))
    if planned.way == "conversation":
        rule = planned.budget, planned.method, planned.sampling
        talk = Conversation(loaded, *rule, codec=planned.codec)
        pieces = talk.ask(planned.question, _pictures(planned))
        said = list(islice(pieces, planned.cancelled_after))
        pieces.close()
        return "".join(said).strip()
    inputs = _prompt(loaded, planned).inputs
    with prefixkv.compress(loaded.model, planned.budget, planned.method, codec=planned.codec) as cache:
        model: Any = loaded.model
        length = planned.sampling.max_new_tokens
        found = model.generate(**loaded.on_device(inputs), **cache.argument, max_new_tokens=length, do_sample=False)
    return _text(loaded, found[0, inputs["input_ids"].shape[1] :].tolist())


def _submitted(loaded: LoadedModel, planned: Planned, engine: prefixkv.Engine, deadline: float | None = None) -> Stream:
    rule = {"method": planned.method, "codec": planned.codec}
    return engine.submit(_prompt(loaded, planned), planned.budget, planned.sampling, deadline, **rule)


def _prompt(loaded: LoadedModel, planned: Planned) -> Prompt:
    return Prompt(loaded.processor, [Turn(planned.question, _pictures(planned))])


def _pictures(planned: Planned) -> tuple[Image.Image, ...]:
    if planned.picture is None:
        return ()
    noise = Random(planned.picture).randbytes(PICTURE_SIDE * PICTURE_SIDE * 3)
    return (Image.frombytes("RGB", (PICTURE_SIDE, PICTURE_SIDE), noise),)


def _text(loaded: LoadedModel, tokens: list[int]) -> str:
    return decoded(loaded.tokenizer, tokens).strip()


def _state(model: Any) -> dict[str, Any]:
    """What of a model an answer might change."""
    # Transformers leaves hooks of its own behind, which hand out hidden states to whoever asks.
    hooks = [
        hook.__qualname__
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if not hook.__module__.startswith("transformers.")
    ]
    plain = {name: value for name, value in vars(model).items() if not name.startswith("__")}
    configs = model.config.to_json_string(), model.generation_config.to_json_string()
    return {"hooks": hooks, "attention": model.config._attn_implementation, "configs": configs, "values": plain}


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[2:]]
    sys.exit(main(Path(sys.argv[1]), *given, *(500, 32, 0)[len(given) :]))
