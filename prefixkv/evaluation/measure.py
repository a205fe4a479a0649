"""Samples through all cells: the full cache first, then every cell against it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from prefixkv.cache import attention
from prefixkv.evaluation.answers import is_exact, is_relaxed, rouge_l
from prefixkv.evaluation.cells import REFERENCE, Cell, new_cache
from prefixkv.evaluation.continuation import Continuation, GivenText, OwnAnswer
from prefixkv.evaluation.exercise import Exercise
from prefixkv.evaluation.following import Following, State, follow
from prefixkv.generation.detokenization import decoded
from prefixkv.generation.prefill import Prefill
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.shaping import shaping_of
from prefixkv.generation.stop_text import before_stop, stop_texts, stop_watch
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.loading import LoadedModel, Notify

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
        side_by_side: whether samples and cells are decoded as rows of one batch: faster, and the same but for rounding.
        notify: told why, once for each model, where a batch's steps on a CUDA device are not captured.
    """

    loaded: LoadedModel
    metrics: Collection[str]
    most_tokens: int
    side_by_side: bool = False
    notify: Notify = lambda text: None

    def sample(self, exercise: Exercise, right: str | None, cells: Sequence[Cell]) -> dict[Cell, Record]:
        """Measure one sample; see `group`."""
        return self.group([exercise], [right], cells)[0]

    @torch.no_grad()
    def group(
        self, exercises: Sequence[Exercise], rights: Sequence[str | None], cells: Sequence[Cell]
    ) -> list[dict[Cell, Record]]:
        """Measure samples, side by side or one after the other.

        Side by side, each sample's prompt is read by itself and taken in by the caches of all cells; then the full
        caches' continuations of all samples are followed together, and then those of all cells. The figures depend, in
        their last digits, on which samples and cells are together, so that the same group gives the same figures in
        every process and in every run.

        Args:
            exercises: the samples.
            rights: the right answer of each, where there is one.
            cells: those that evict.

        Returns:
            Of each sample a record for the reference and one for each cell.
        """
        with attention.installed(self.loaded.model), sdpa_kernel(REPEATABLE):
            if self.side_by_side:
                found = _side_by_side(self, exercises, cells)
            else:
                found = [_one_by_one(self, exercise, cells) for exercise in exercises]
        return [
            {cell: self._record(outcome, outcomes[REFERENCE], right) for cell, outcome in outcomes.items()}
            for outcomes, right in zip(found, rights, strict=True)
        ]

    @property
    def wants_own(self) -> bool:
        """Whether own answers are judged."""
        return bool({"rouge", "accuracy"} & set(self.metrics))

    def _record(self, outcome: _Outcome, full: _Outcome, right: str | None) -> Record:
        held = outcome.along.kept
        record: Record = {
            name: math.fsum(getattr(each, name) for each in held) / len(held)
            for name in ("kept_bytes", "full_bytes", "kept_tokens_fraction", "bits", "seen_tokens")
        }
        record["evicts"] = all(each.kept_bytes < each.full_bytes for each in held)
        if "ppl" in self.metrics:
            record |= {"tokens": len(outcome.losses), "loss": math.fsum(outcome.losses)}
        if "kl" in self.metrics:
            record |= {"kl_tokens": len(held), "kl": math.fsum(outcome.along.divergences)}
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
    """What is followed in one cell.

    Attributes:
        along: the full cache's answer (or how the text goes on), the same tokens in every cell: here the cache is
            weighed and the divergence taken.
        reference: the data's right answer; None where `along` is scored.
        own: the cell's own answer, which in the full cache is `along`; None where none is wanted.
        stops: tokens of `along` that end an answer, and are not scored where it stands for the reference.
    """

    along: Continuation
    reference: GivenText | None
    own: Continuation | None
    stops: Collection[int] = ()

    @property
    def all(self) -> list[Continuation]:
        """Those that there are, each once."""
        found = [self.along]
        found += [] if self.own is None or self.own is self.along else [self.own]
        return found if self.reference is None else [*found, self.reference]

    @property
    def losses(self) -> list[float]:
        """Of the reference's tokens, in nats."""
        if self.reference is not None:
            return self.reference.losses
        return self.along.losses[:-1] if self.along.tokens[-1] in self.stops else self.along.losses


def _one_by_one(measuring: Measuring, exercise: Exercise, cells: Sequence[Cell]) -> dict[Cell, _Outcome]:
    """Outcomes of one sample, every token a step of a single row."""
    sample, found = _Sample(measuring, exercise), dict[Cell, _Outcome]()
    for cell in (REFERENCE, *cells):
        state = sample.begun(cell)
        for token in exercise.bridge:
            state.read([token])
        if exercise.further:
            state.read(exercise.further)
        for token in exercise.last:
            state.read([token])
        found[cell] = sample.asked(found.get(REFERENCE))
        follow(state, found[cell].all)
    return found


def _side_by_side(
    measuring: Measuring, exercises: Sequence[Exercise], cells: Sequence[Cell]
) -> list[dict[Cell, _Outcome]]:
    """Outcomes of several samples, the full caches' together and then those of all cells."""
    samples, states = list[_Sample](), list[dict[Cell, State]]()
    for exercise in exercises:
        sample = _Sample(measuring, exercise)
        samples.append(sample)
        states.append({cell: sample.begun(cell) for cell in (REFERENCE, *cells)})
        sample.forget_prompt()
    found: list[dict[Cell, _Outcome]] = [{} for _ in samples]
    for together in ([REFERENCE], cells):
        begun, asked = list[tuple[State, Exercise]](), list[_Outcome]()
        for sample, own, outcomes in zip(samples, states, found, strict=True):
            for cell in together:
                begun.append((own.pop(cell), sample.exercise))
                asked.append(sample.asked(outcomes.get(REFERENCE)))
                outcomes[cell] = asked[-1]
        following = Following(measuring.loaded.model, sum(len(each.all) for each in asked), measuring.notify)
        following.read([(state, exercise.bridge) for state, exercise in begun])
        for state, exercise in begun:
            if exercise.further:
                state.read(exercise.further)
        following.read([(state, exercise.last) for state, exercise in begun])
        if begun:
            following.follow([(state, each.all) for (state, _), each in zip(begun, asked, strict=True)])
    return found


class _Sample:
    """One sample: its prompt, read once, and what is followed behind it."""

    def __init__(self, measuring: Measuring, exercise: Exercise) -> None:
        self.exercise = exercise
        self._measuring, self._loaded, self._model = measuring, measuring.loaded, measuring.loaded.model
        self._stops, self._wants_kl = stop_tokens(measuring.loaded), "kl" in measuring.metrics
        self._prefill: Prefill | None = Prefill(measuring.loaded.model, measuring.loaded.geometry, exercise.inputs)

    def begun(self, cell: Cell) -> State:
        """A cell's cache, which has read the prompt."""
        assert self._prefill is not None
        cache = new_cache(self._loaded, cell)
        self._prefill.fill(cache, shares_scores=True)
        return State(self._model, cache, self._prefill.logits)

    def forget_prompt(self) -> None:
        """Free the keys, values and queries that caches were filled with: all have begun."""
        self._prefill = None

    def asked(self, full: _Outcome | None) -> _Outcome:
        """What is to be followed in the full cache, or in a cell's.

        Args:
            full: what was followed in the full cache; None for what is to be followed there.
        """
        exercise = self.exercise
        reference = GivenText(exercise.reference, weighs=False) if exercise.reference and not exercise.is_text else None
        if full is not None:
            tokens, predictions = full.along.tokens, full.along.predictions
            wants_own = self._measuring.wants_own and not exercise.is_text
            own = self._own_answer(weighs=False) if wants_own else None
            return _Outcome(GivenText(tokens, predictions), reference, own, full.stops)
        if exercise.is_text:
            assert exercise.reference
            return _Outcome(GivenText(exercise.reference, keeps_predictions=self._wants_kl), None, None)
        answer = self._own_answer(self._wants_kl)
        return _Outcome(answer, reference, answer, self._stops)

    def _own_answer(self, keeps_predictions: bool = False, weighs: bool = True) -> OwnAnswer:
        """An answer as the model gives it elsewhere: by its own settings, to its own ends."""
        exercise, most = self.exercise, self._measuring.most_tokens
        read = exercise.inputs["input_ids"]
        more = torch.tensor(
            [[*exercise.bridge, *exercise.further, *exercise.last]], dtype=torch.int64, device=read.device
        )
        shaping = shaping_of(self._model, torch.cat([read, more], dim=1), most)
        texts = stop_texts(Sampling(), self._model.generation_config)
        watch = stop_watch(self._loaded.tokenizer, texts)
        return OwnAnswer(self._stops, most, keeps_predictions, shaping, watch, weighs)
