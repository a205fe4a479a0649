"""What every type of model must do as a small random model that reads tokens."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, DynamicCache

import prefixkv
from prefixkv.cache.snapshot import CacheSnapshot
from prefixkv.chat.context import load_context, save_context
from prefixkv.chat.conversation import Conversation
from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import cache_argument
from tests.families.checks import stock_attention
from tests.families.shrunk import ATTEMPTS, VISION, VOCABULARY, small_config, small_model
from tests.families.tiny_tokenizer import tiny_tokenizer

PROMPTS = (60, 30)
NEW_TOKENS = 8
METHOD = "prefixkv"
SHARE = 0.3
QUESTIONS = ("ba ce di fo gu ha je ki lo mu " * 9, "na pe qu re si")
RAGGED = (59, 63, 50)


class StockError(Exception):
    """Stock transformers cannot do it either."""


def tokens(count: int, seed: int) -> torch.Tensor:
    """Random text, (1, count), int64, without special tokens."""
    return torch.randint(4, VOCABULARY - 1, (1, count), generator=torch.Generator().manual_seed(seed))


def generate(
    model: Any, text: torch.Tensor, cache: Any, mask: torch.Tensor | None = None, stops: Collection[int] = ()
) -> torch.Tensor:
    """A greedy answer behind a text, (batch, NEW_TOKENS), or less where it ends in one of `stops`."""
    mask = torch.ones_like(text) if mask is None else mask
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": sorted(stops) or None}
    out = model.generate(input_ids=text, attention_mask=mask, **options, **cache_argument(cache))
    return out[:, text.shape[1] :]


def two_turns(model: Any, cache: Any) -> torch.Tensor:
    """The answers of two turns on one cache, and the text between, (1, tokens)."""
    text = tokens(PROMPTS[0], 1)
    text = torch.cat([text, generate(model, text, cache)], dim=1)
    text = torch.cat([text, tokens(PROMPTS[1], 2)], dim=1)
    return torch.cat([text, generate(model, text, cache)], dim=1)


def stock_text(model: Any) -> torch.Tensor:
    """Two turns by stock `generate` on one cache of its own.

    Raises:
        StockError: it cannot, or reads the second turn otherwise than from the beginning.
    """
    try:
        with stock_attention(model):
            text = two_turns(model, DynamicCache(config=model.config))
            # Reads all but the last answer from the beginning.
            again = text[:, :-NEW_TOKENS]
            whole = torch.cat([again, generate(model, again, DynamicCache(config=model.config))], dim=1)
    except Exception as error:
        raise StockError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not whole.equal(text):
        raise StockError("a second turn on stock's cache gives other tokens than the whole text read at once")
    return text


def equals_stock(model: Any) -> None:
    """At 100 %, two turns are stock `generate`'s, token for token."""
    expected = stock_text(model)
    with prefixkv.compress(model, "100%", METHOD) as cache:
        assert two_turns(model, cache).equal(expected), "other tokens than stock"


def stays_within_budget(model: Any) -> None:
    """At 30 %, two turns end with the compressed layers within their share, and at 100 % all of them hold all."""
    with prefixkv.compress(model, SHARE, METHOD) as cache:
        text = two_turns(model, cache)
    usage = cache.usage()
    seen = sum(layer.seen_tokens for layer in usage.layers)
    assert seen == len(usage.layers) * (text.shape[1] - 1), "not every token was read by every compressed layer"
    kept = sum(layer.kept_tokens for layer in usage.layers)
    assert kept <= SHARE * seen, f"{kept} entries of {seen}, more than the budget"
    assert usage.kept_bytes <= SHARE * usage.full_bytes, "more bytes than the budget"


def bytes_are_those_of_info(model: Any) -> None:
    """What stock's cache takes for each token in the layers that are compressed is what the geometry says."""
    geometry = KVGeometry.of(model.config, "float32")
    text = tokens(PROMPTS[0], 1)
    with prefixkv.compress(model, "100%", METHOD) as cache:
        generate(model, text, cache)
    read = text.shape[1] + NEW_TOKENS - 1
    assert cache.usage().full_bytes == read * geometry.counted_token_bytes, "other counted bytes than the geometry says"
    held = sum(part[:, :, :read].nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert held == read * geometry.token_bytes, f"{held} bytes, and the geometry says {read * geometry.token_bytes}"
    window = min(read, geometry.window_tokens) * len(geometry.window_layers) * geometry.window_entry.numbers * 4
    assert cache.window_bytes == window, f"windows of {cache.window_bytes} bytes, and the geometry says {window}"
    states = cache.state_bytes
    assert states == geometry.state_bytes, f"states of {states} bytes, and the geometry says {geometry.state_bytes}"


@contextmanager
def _positions(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects what the first rotary embedding that is asked is told, (1, tokens) for each forward pass."""
    seen: list[torch.Tensor] = []
    told: list[torch.Tensor] = []
    first: list[torch.nn.Module] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1] if len(args) > 1 else None
        if not isinstance(positions, torch.Tensor) or (told and positions is told[-1]):
            return
        told.append(positions)
        if not first:
            first.append(module)
        if module is first[0]:
            seen.append(positions.reshape(-1, positions.shape[-1])[-1:].clone())

    handles = [
        module.register_forward_pre_hook(note, with_kwargs=True)
        for name, module in model.named_modules()
        if "rotary" in type(module).__name__.lower() and not any(word in name for word in VISION)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def positions_are_true(model: Any) -> None:
    """At 30 %, the model rotates by the positions of one uncompressed pass."""
    with _positions(model) as seen, prefixkv.compress(model, SHARE, METHOD) as cache:
        text = two_turns(model, cache)
        compressed = torch.cat(seen, dim=-1) if seen else None
    if compressed is None:
        return
    with _positions(model) as seen, torch.no_grad(), stock_attention(model):
        model(input_ids=text[:, :-1], use_cache=False)
        whole = torch.cat(seen, dim=-1)
    assert compressed.equal(whole.expand_as(compressed)), "other positions than one pass over the whole"


def ragged_rows(model: Any) -> None:
    """Rows of different lengths, padded on the left, give what each gives alone."""
    rows = [tokens(count, 10 + count) for count in RAGGED]
    longest = max(RAGGED)
    pads = [longest - count for count in RAGGED]
    text = torch.cat([torch.nn.functional.pad(row, (pad, 0)) for row, pad in zip(rows, pads, strict=True)])
    mask = torch.stack([torch.arange(longest) >= pad for pad in pads]).long()
    for share in (SHARE, 1.0):
        with prefixkv.compress(model, share, METHOD) as cache:
            together = generate(model, text, cache, mask)
        for index, row in enumerate(rows):
            with prefixkv.compress(model, share, METHOD) as alone:
                answer = generate(model, row, alone)[0]
            if not answer.equal(together[index]):
                _require_stock_ragged(model, rows, text, mask)
                raise AssertionError(f"row {index} of a batch gives other tokens than alone, at {share:.0%}")


def _require_stock_ragged(model: Any, rows: list[torch.Tensor], text: torch.Tensor, mask: torch.Tensor) -> None:
    with stock_attention(model), torch.no_grad():
        behind = _logits_behind(model, text, mask)
        for index, row in enumerate(rows):
            if not torch.allclose(_logits_behind(model, row, torch.ones_like(row))[0], behind[index], atol=1e-3):
                raise StockError("stock's padded rows give other logits than each alone")
        together = generate(model, text, DynamicCache(config=model.config), mask)
        for index, row in enumerate(rows):
            if not generate(model, row, DynamicCache(config=model.config))[0].equal(together[index]):
                raise StockError("stock's padded rows give other tokens than each alone")


def _logits_behind(model: Any, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits of the second token that stock `generate` writes, (batch, vocabulary)."""
    cache = cache_argument(DynamicCache(config=model.config))
    options = {"max_new_tokens": 2, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(input_ids=text, attention_mask=mask, **options, **cache).logits[-1]


def guided_packs(model: Any) -> None:
    """Method `guided` keeps two turns within 30 % in 8 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # There is no profile of a random model.
        with prefixkv.compress(model, SHARE, "guided", "int8") as cache:
            two_turns(model, cache)
    usage = cache.usage()
    assert usage.bits == 8, f"{usage.bits} bits"
    assert usage.kept_bytes <= SHARE * usage.full_bytes, "more bytes than the budget"


def undo(model: Any) -> None:
    """A row goes back to a copy of itself, and goes on from there as it did before."""
    with prefixkv.compress(model, SHARE, METHOD) as cache:
        text = tokens(PROMPTS[0], 1)
        text = torch.cat([text, generate(model, text, cache)], dim=1)
        snapshot = CacheSnapshot.take(cache.row)
        question = torch.cat([text, tokens(PROMPTS[1], 2)], dim=1)
        first = generate(model, question, cache)
        snapshot.restore(cache.row, model.device)
        assert generate(model, question, cache).equal(first), "other tokens after going back"


def _loaded(model: Any) -> LoadedModel:
    geometry = KVGeometry.of(model.config, "float32")
    return LoadedModel("small", model, tiny_tokenizer({}), geometry, model.device, False, 0.0)


def chats_as_stock(model: Any) -> None:
    """At 100 %, two turns of a conversation are those of stock `generate`, which reads each from the beginning."""
    loaded = _loaded(model)
    talk = Conversation(loaded, "100%", METHOD, sampling=Sampling(NEW_TOKENS))
    turns: list[Turn] = []
    for question in QUESTIONS:
        answer = "".join(talk.ask(question)).strip()
        turns.append(Turn(question))
        inputs = Prompt(loaded.processor, turns).inputs
        with stock_attention(model):
            cache = DynamicCache(config=model.config)
            out = generate(model, inputs["input_ids"], cache, stops=stop_tokens(loaded))[0]
        turns[-1].answer = answer
        assert answer == loaded.tokenizer.decode(out, skip_special_tokens=True).strip(), "other text than stock"


def save_and_load(model: Any) -> None:
    """A saved conversation goes on as the one that was saved."""
    loaded, sampling = _loaded(model), Sampling(NEW_TOKENS)
    talk = Conversation(loaded, "30%", METHOD, sampling=sampling)
    list(talk.ask(QUESTIONS[0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "context"
        save_context(talk, path, "context")
        second = load_context(path, loaded, sampling)
    assert "".join(second.ask(QUESTIONS[1])) == "".join(talk.ask(QUESTIONS[1])), "other tokens after loading"


CHECKS: dict[str, Callable[[Any], None]] = {
    "100 % = stock": equals_stock,
    "30 %": stays_within_budget,
    "bytes": bytes_are_those_of_info,
    "true positions": positions_are_true,
    "ragged rows": ragged_rows,
    "guided, int8": guided_packs,
    "undo": undo,
    "chat": chats_as_stock,
    "save and load": save_and_load,
}
"""The checks by their column, in order; the first one needs stock transformers to work."""


def try_type(model_type: str, reads_pictures: bool, stock_is_done: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """What a type does.

    Args:
        model_type: as transformers' tables have it.
        reads_pictures: whether it is listed as one of pictures and text.
        stock_is_done: called when stock transformers has been tried.

    Returns:
        `outcome`: `runs`, `refused`, `stock fails`, `fails` or `crashes`; with `reason` and `checks`.
    """
    refusal: str | None = None
    model, said = None, ""
    for attempt in range(ATTEMPTS):
        try:
            config = small_config(model_type, attempt)
            refusal = _refusal(config)
            model = small_model(config, reads_pictures)
            break
        except Exception as error:
            said = said or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if model is None:
        refusal = refusal or _refusal_of_type(model_type)
        if refusal is not None:
            return {"outcome": "refused", "reason": refusal}
        return {"outcome": "stock fails", "reason": f"no small model can be made: {said}"}
    found: dict[str, Any] = {"parameters": sum(part.numel() for part in model.parameters())}
    try:
        stock_text(model)
    except StockError as error:
        found["stock"] = str(error)
    stock_is_done()
    if refusal is not None:
        return found | {"outcome": "refused", "reason": refusal}
    if "stock" in found:
        return found | {"outcome": "stock fails", "reason": found.pop("stock")}
    checks = found["checks"] = {}
    for name, check in CHECKS.items():
        try:
            check(model)
        except StockError as error:
            checks[name] = f"stock: {error}"
        except AssertionError as error:
            checks[name] = f"no: {' '.join(str(error).split())[:200]}"
        except PrefixKVError as error:
            return found | {"outcome": "refused late", "reason": " ".join(str(error).split())[:300]}
        except Exception as error:
            return found | {"outcome": "crashes", "reason": f"{name}: {_traced(error)}"}
        else:
            checks[name] = "yes"
    bad = [name for name, said in checks.items() if said.startswith("no")]
    return found | ({"outcome": "fails", "reason": ", ".join(bad)} if bad else {"outcome": "runs"})


def _refusal_of_type(model_type: str) -> str | None:
    try:
        return _refusal(AutoConfig.for_model(model_type))
    except Exception:  # A few have no configuration without arguments.
        return None


def _refusal(config: Any) -> str | None:
    try:
        KVGeometry.of(config, "float32")
    except PrefixKVError as error:
        return str(error)
    return None


def _traced(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"
