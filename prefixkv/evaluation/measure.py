"""One sample through all cells: the full cache first, then every cell against it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from prefixkv.cache import attention
from prefixkv.evaluation.answers import is_exact, is_relaxed, rouge_l
from prefixkv.evaluation.cells import REFERENCE, Cell, new_cache
from prefixkv.evaluation.continuation import Continuation, GivenText, OwnAnswer, State, follow, follow_together
from prefixkv.evaluation.exercise import Exercise
from prefixkv.evaluation.prefill import Prefill
from prefixkv.generation.detokenization import decoded
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import shaping_of
from prefixkv.generation.stop_text import before_stop, stop_texts, stop_watch
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.loading import LoadedModel

REPEATABLE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention kernels whose sums are the same in every run.

cuDNN's, which torch prefers on newer GPUs, adds up the parts of a long cache as they come: one figure in some tens then
differs from the third or fourth digit on.
"""

Record = dict[str, Any]
"""What was measured of one sample in one cell: plain values."""


@dataclass(frozen=True)
class Measuring:
    """What is measured of every sample.

    Attributes:
        loaded: the model.
        metrics: of `ppl`, `rouge`, `accuracy`, `kl`.
        most_tokens: longest own answer.
        side_by_side: whether a question's cells are decoded as one batch, as those of a text always are: faster, and
            the same but for rounding.
    """

    loaded: LoadedModel
    metrics: Collection[str]
    most_tokens: int
    side_by_side: bool = False

    @torch.inference_mode()
    def sample(self, exercise: Exercise, right: str | None, cells: Sequence[Cell]) -> dict[Cell, Record]:
        """Measure one sample.

        Args:
            exercise: the sample.
            right: the right answer, where there is one.
            cells: those that evict.

        Returns:
            A record for the reference and one for each cell.
        """
        with attention.installed(self.loaded.model), sdpa_kernel(REPEATABLE):
            outcomes = _Run(self, exercise).outcomes(cells)
        full = outcomes[REFERENCE]
        return {cell: self._record(outcome, full, right) for cell, outcome in outcomes.items()}

    @property
    def wants_own(self) -> bool:
        """Whether own answers are judged."""
        return bool({"rouge", "accuracy"} & set(self.metrics))

    def _record(self, outcome: _Outcome, full: _Outcome, right: str | None) -> Record:
        usages = outcome.along.usages
        record: Record = {
            "kept_bytes": math.fsum(usage.kept_bytes for usage in usages) / len(usages),
            "full_bytes": math.fsum(usage.full_bytes for usage in usages) / len(usages),
            "kept_tokens_fraction": math.fsum(usage.kept_tokens_fraction for usage in usages) / len(usages),
            "bits": math.fsum(usage.bits for usage in usages) / len(usages),
            "seen_tokens": math.fsum(usage.layers[0].seen_tokens for usage in usages) / len(usages),
            "evicts": all(usage.kept_bytes < usage.full_bytes for usage in usages),
        }
        if "ppl" in self.metrics:
            record |= {"tokens": len(outcome.losses), "loss": math.fsum(outcome.losses)}
        if "kl" in self.metrics:
            record |= {"kl_tokens": len(usages), "kl": math.fsum(outcome.divergences)}
        if not self.wants_own or outcome.own is None or full.own is None:
            return record
        answer, own = self._text(outcome.own), self._text(full.own)
        record["answer"] = answer
        if "rouge" in self.metrics:
            record["rouge_l"] = rouge_l(answer, own)
        if "accuracy" in self.metrics and right is not None:
            record |= {"exact": is_exact(answer, right), "relaxed": is_relaxed(answer, right)}
        return record

    def _text(self, own: Continuation) -> str:
        text = decoded(self.loaded.tokenizer, own.tokens)
        return before_stop(text, stop_texts(Sampling(), self.loaded.model.generation_config)).strip()


@dataclass(frozen=True)
class _Outcome:
    """What was followed in one cell.

    Attributes:
        along: the full cache's answer (or how the text goes on), the same tokens in every cell: here the cache is
            weighed and the divergence taken.
        divergences: along it, in nats; none for the full cache itself.
        losses: of the reference's tokens, in nats.
        own: the cell's own answer, where there is one.
    """

    along: Continuation
    divergences: list[float]
    losses: list[float]
    own: Continuation | None


@dataclass(frozen=True)
class _Followed:
    """The continuations of one cell.

    Attributes:
        along: see `_Outcome`.
        reference: the data's right answer; None where `along` is scored.
        own: the cell's own answer; None where none is wanted.
    """

    along: GivenText
    reference: GivenText | None
    own: OwnAnswer | None

    @property
    def all(self) -> list[Continuation]:
        """Those that there are."""
        return [one for one in (self.along, self.reference, self.own) if one is not None]

    def outcome(self, scored_tokens: int) -> _Outcome:
        """What was noted, `scored_tokens` of `along` being the reference where there is no other."""
        losses = self.along.losses[:scored_tokens] if self.reference is None else self.reference.losses
        return _Outcome(self.along, self.along.divergences, losses, self.own)


class _Run:
    """One sample on the full cache, and on the cells' caches against it."""

    def __init__(self, measuring: Measuring, exercise: Exercise) -> None:
        self._measuring, self._exercise = measuring, exercise
        self._loaded, self._model = measuring.loaded, measuring.loaded.model
        self._stops, self._wants_kl = stop_tokens(measuring.loaded), "kl" in measuring.metrics
        self._prefill = Prefill(measuring.loaded, exercise.inputs)

    def outcomes(self, cells: Sequence[Cell]) -> dict[Cell, _Outcome]:
        """The reference's outcome and those of the cells."""
        if self._exercise.is_text:
            text = self._exercise.reference
            assert text
            first = GivenText(text, keeps_predictions=self._wants_kl)
            along = [first, *(GivenText(text, first.predictions) for _ in cells)]
            every = [REFERENCE, *cells]
            done = self._follow((self._begin(c), self._judged(one)) for c, one in zip(every, along, strict=True))
            return {cell: one.outcome(len(text)) for cell, one in zip(every, done, strict=True)}
        full = self._full_answer()
        tokens, predictions = full.along.tokens, full.along.predictions
        done = self._follow((self._begin(cell), self._judged(GivenText(tokens, predictions))) for cell in cells)
        return {REFERENCE: full} | {cell: one.outcome(len(full.losses)) for cell, one in zip(cells, done, strict=True)}

    def _full_answer(self) -> _Outcome:
        own = self._own_answer(self._wants_kl)
        reference = self._reference()
        follow(self._begin(REFERENCE), [own] if reference is None else [own, reference])
        losses = own.losses[:-1] if own.tokens[-1] in self._stops else own.losses
        return _Outcome(own, [], losses if reference is None else reference.losses, own)

    def _judged(self, along: GivenText) -> _Followed:
        own = self._own_answer() if self._measuring.wants_own else None
        return _Followed(along, self._reference(), own)

    def _own_answer(self, keeps_predictions: bool = False) -> OwnAnswer:
        """An answer as the model gives it elsewhere: by its own settings, to its own ends."""
        exercise, most = self._exercise, self._measuring.most_tokens
        read = exercise.inputs["input_ids"]
        more = torch.tensor(
            [[*exercise.bridge, *exercise.further, *exercise.last]], dtype=torch.int64, device=read.device
        )
        shaping = shaping_of(self._model, torch.cat([read, more], dim=1), most)
        texts = stop_texts(Sampling(), self._model.generation_config)
        watch = stop_watch(self._loaded.tokenizer, texts)
        return OwnAnswer(self._stops, most, keeps_predictions, shaping, watch)

    def _reference(self) -> GivenText | None:
        """The data's right answer, where there is one."""
        return GivenText(self._exercise.reference) if self._exercise.reference and not self._exercise.is_text else None

    def _follow(self, begun: Iterable[tuple[State, _Followed]]) -> list[_Followed]:
        """Follow what is begun one after the other, or side by side."""
        if self._measuring.side_by_side or self._exercise.is_text:
            rows = list(begun)
            follow_together(self._model, [(state, followed.all) for state, followed in rows])
            return [followed for _, followed in rows]
        done = []
        for state, followed in begun:
            follow(state, followed.all)
            done.append(followed)
        return done

    def _begin(self, cell: Cell) -> State:
        """A cell's cache, with all in it that comes before the answer."""
        cache = new_cache(self._loaded, cell)
        self._prefill.fill(cache)
        state = State(self._model, cache, self._prefill.logits)
        for token in self._exercise.bridge:
            state.read([token])
        if self._exercise.further:
            state.read(self._exercise.further)
        for token in self._exercise.last:
            state.read([token])
        return state
