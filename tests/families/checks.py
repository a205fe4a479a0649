"""What every family must do, as functions: the tests run them, and so does the table in docs/families.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.completed_passes import completed_passes
from prefixkv.models.geometry import DTYPE_BYTES, KVGeometry
from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import cache_argument
from tests.families.tiny_models import Tiny
from tests.padded_batch import padded_batch

QUESTIONS = ("ba ce di fo gu ha je ki lo mu " * 4, "na pe qu re si")
METHOD = "prefixkv"


def loaded(tiny: Tiny) -> LoadedModel:
    """The model as `prefixkv.load_model` would return it."""
    geometry = KVGeometry.of(tiny.model.config, str(tiny.model.dtype).removeprefix("torch."))
    return LoadedModel("tiny", tiny.model, tiny.processor, geometry, tiny.model.device, bool(tiny.pictures), 0.0)


def turns(tiny: Tiny, answers: tuple[str, ...] = ()) -> list[Turn]:
    """The conversation up to the question that comes after these answers; each question has a picture of its own."""
    texts = dict(enumerate(answers))
    return [
        Turn(QUESTIONS[index], tiny.pictures[index : index + 1], texts.get(index))
        for index in range(min(len(answers) + 1, len(QUESTIONS)))
    ]


def conversation(tiny: Tiny, budget: str, new_tokens: int | None = None) -> tuple[list[str], Conversation]:
    """The answers of two turns on one compressed cache."""
    notices: list[str] = []
    talk = Conversation(
        loaded(tiny), budget, METHOD, sampling=Sampling(new_tokens or tiny.new_tokens), notify=notices.append
    )
    answers = ["".join(talk.ask(turn.prompt, turn.images)).strip() for turn in turns(tiny, ("", ""))]
    # On a GPU a family whose step is not captured says so.
    assert [notice for notice in notices if not notice.startswith("the step is not captured")] == []
    return answers, talk


def stock_answers(tiny: Tiny) -> list[str]:
    """The same by stock `generate`, every turn read from the beginning."""
    model: Any = tiny.model
    answers: tuple[str, ...] = ()
    with stock_attention(model):
        for _ in QUESTIONS:
            inputs = Prompt(tiny.processor, turns(tiny, answers)).inputs
            out = model.generate(**inputs, max_new_tokens=tiny.new_tokens, do_sample=False)[
                0, inputs["input_ids"].shape[1] :
            ]
            answers = (*answers, loaded(tiny).tokenizer.decode(out, skip_special_tokens=True).strip())
    return list(answers)


@contextmanager
def stock_attention(model: Any) -> Iterator[None]:
    """Transformers' own attention; capped attention needs the eager kind."""
    text = model.config.get_text_config()
    before = text._attn_implementation
    is_capped = bool(getattr(text, "attn_logit_softcapping", None))
    if is_capped:
        model.set_attn_implementation("eager")
    try:
        with completed_passes(model):
            yield
    finally:
        if is_capped:
            model.set_attn_implementation(before)


@contextmanager
def rotary_positions(model: torch.nn.Module) -> Any:
    """Collects what the language model's rotary embedding is told, (axes, tokens) for each forward pass."""
    seen: list[torch.Tensor] = []
    told: list[torch.Tensor] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        # Where layers of two kinds have an embedding each, both are told the same.
        if not told or positions is not told[-1]:
            told.append(positions)
            seen.append(positions.reshape(-1, positions.shape[-1]).clone())

    modules = [
        module
        for name, module in model.named_modules()
        if "rotary" in type(module).__name__.lower() and "vis" not in name and "image" not in name
    ]
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def whole_budget_equals_stock(tiny: Tiny) -> None:
    """At 100 %, two turns with a picture each are stock `generate`'s, token for token.

    Where a prompt's tokens see each other, reading the first answer again as a prompt is another thing: one turn then.
    """
    inputs = Prompt(tiny.processor, turns(tiny)).inputs
    with torch.no_grad(), prefixkv.compress(tiny.model, "100%", METHOD) as cache:
        compressed = tiny.model(**inputs, **cache_argument(cache)).logits
    with torch.no_grad(), stock_attention(tiny.model):
        torch.testing.assert_close(compressed, tiny.model(**inputs).logits, rtol=1e-4, atol=1e-4)
    answers, _ = conversation(tiny, "100%")
    compared = 1 if tiny.prompt_sees_itself else len(answers)
    assert answers[:compared] == stock_answers(tiny)[:compared]


def small_budget_runs_two_turns(tiny: Tiny) -> None:
    """At 30 %, two turns end where they must, and the layers hold their share."""
    answers, talk = conversation(tiny, "30%")
    assert [len(answer.split()) for answer in answers] == [tiny.new_tokens, tiny.new_tokens]
    usage = talk.usage()
    kept, seen = (sum(getattr(layer, name) for layer in usage.layers) for name in ("kept_tokens", "seen_tokens"))
    # Each layer's growth is rounded down, and so was the budget when the second prompt was read.
    assert 0.3 * seen - len(usage.layers) - 1 <= kept <= 0.3 * seen


def positions_are_true(tiny: Tiny) -> None:
    """At 30 %, the rotary embedding is told what one uncompressed pass over the whole conversation tells it."""
    with rotary_positions(tiny.model) as seen:
        answers, talk = conversation(tiny, "30%")
        compressed = torch.cat(seen, dim=-1)
    whole = [
        Turn(turn.prompt, turn.images, answer) for turn, answer in zip(turns(tiny, ("", "")), answers, strict=True)
    ]
    with rotary_positions(tiny.model) as seen, torch.no_grad(), stock_attention(tiny.model):
        tiny.model(**Prompt(tiny.processor, whole).inputs)
        uncompressed = torch.cat(seen, dim=-1)
    assert compressed.shape[-1] == talk.cache.seen_tokens > 2 * tiny.new_tokens
    assert compressed.equal(uncompressed[:, : compressed.shape[-1]].expand_as(compressed))


def bytes_equal_budget(tiny: Tiny) -> None:
    """Once the prompt is read, the buffers hold the budget's bytes, no more and no less.

    What is left alone is counted apart: states, and windows as long as the prompt, or as the window but one token.
    """
    _, talk = conversation(tiny, "30%", new_tokens=1)
    cache, geometry = talk.cache, talk.loaded.geometry
    entries = int(cache.budget.amount * cache.seen_tokens * geometry.layers)
    buffers = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    assert sum(part.untyped_storage().nbytes() for part in buffers) == entries * geometry.entry_bytes
    assert cache.usage().kept_bytes == entries * geometry.counted_bytes
    assert cache.usage().allocated_bytes > entries * geometry.entry_bytes + cache.window_bytes
    assert geometry.window_layers == tiny.window_layers
    held = (
        min(cache.seen_tokens, geometry.window_tokens - 1) * geometry.window_entry.numbers * DTYPE_BYTES[geometry.dtype]
    )
    assert cache.window_bytes == (held * len(tiny.window_layers) if tiny.window_layers else 0)
    assert cache.state_bytes == geometry.state_bytes


def ragged_rows_equal_single_rows(tiny: Tiny) -> None:
    """A batch of three rows, with pictures of other sizes or none, gives what each row gives alone."""
    model: Any = tiny.model
    rows = [[Turn("ba ce di fo gu " * repeats, pictures)] for repeats, pictures in rows_of(tiny)]
    prompts = [Prompt(tiny.processor, row) for row in rows]
    options = {"max_new_tokens": tiny.new_tokens, "do_sample": False}
    for budget in ("30%", "100%"):
        with prefixkv.compress(model, budget) as together:
            inputs = padded_batch(prompts, pad_token=0)
            answers = model.generate(**inputs, **cache_argument(together), **options)[:, -tiny.new_tokens :]
        for index, prompt in enumerate(prompts):
            with prefixkv.compress(model, budget) as alone:
                answer = model.generate(**prompt.inputs, **cache_argument(alone), **options)[0, -tiny.new_tokens :]
            assert answer.equal(answers[index])
            for layer in range(together.geometry.layers):
                kept = [cache.kept_positions(layer).sort(dim=-1).values for cache in (together.rows[index], alone)]
                assert kept[0].equal(kept[1])


def rows_of(tiny: Tiny) -> list[tuple[int, tuple[Any, ...]]]:
    """Lengths and pictures of three rows that differ in both."""
    if tiny.prompt_sees_itself:
        return [(3, tiny.pictures), (7, tiny.pictures), (5, tiny.pictures)]
    return [(3, tiny.pictures[:1]), (9, ()), (5, tiny.pictures[1:])]


CHECKS: dict[str, Callable[[Tiny], None]] = {
    "100 % = stock": whole_budget_equals_stock,
    "30 %, two turns": small_budget_runs_two_turns,
    "true positions": positions_are_true,
    "bytes = budget": bytes_equal_budget,
    "ragged batch": ragged_rows_equal_single_rows,
}
"""The columns of the table."""
