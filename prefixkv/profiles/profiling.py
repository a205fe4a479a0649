"""Measure a model's layer profile: run calibration samples and stream the importance of every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from prefixkv import __version__
from prefixkv.cache import attention, hand_off
from prefixkv.cache.hand_off import AfterAttention, HandOff
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.errors import PrefixKVError
from prefixkv.generation.forward import picture_errors
from prefixkv.inputs.positions import answer_room
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.methods.evidence import Evidence
from prefixkv.methods.h2o import accumulated
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.loading import LoadedModel, Notify
from prefixkv.policy.look_ahead import LookAhead, QueryParts, QueryRecorder
from prefixkv.policy.precision import Losses
from prefixkv.policy.rotary import PositionWatch, Rotation, watched
from prefixkv.policy.selection import cumulative_importance
from prefixkv.profiles.calibration import Sample
from prefixkv.profiles.divergence import divergences
from prefixkv.profiles.eviction import evicting_caches, mixing_caches
from prefixkv.profiles.profile import LayerProfile, LookAheadFile, average_curve
from prefixkv.profiles.rounding import rounded_caches
from prefixkv.transformers_compat import cache_argument
from prefixkv.workers import Launch, division_of

SCORER = accumulated.__name__
ANSWER_TOKENS = 128
"""Length to which a model answers a calibration sample: look-ahead queries are drawn from the whole answers."""
COMPARED_SAMPLES = 16
"""Samples, the first ones, whose answers are predicted again from caches that round and from such as evict."""


class _Recorder(DynamicCache):
    """A full cache that scores every layer's prompt when the layer has attended, and records the answer's queries.

    Attributes:
        curves: for each layer read so far the cumulative importance of its ranked entries.
    """

    def __init__(self, config: Any, geometry: KVGeometry, queries: QueryRecorder | None, watch: PositionWatch) -> None:
        super().__init__(config=config)
        self.curves: list[list[float]] = []
        self._numbers = {place: number for number, place in enumerate(geometry.compressed_layers)}
        self._queries, self._watch = queries, watch
        self._prompt_tokens = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store as usual.

        After its attention the first chunk is scored, and a later token's queries are recorded, but not in layers that
        are left alone, which no budget counts.
        """
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        after: AfterAttention | None = None
        number = self._numbers.get(layer_idx)
        if number is not None and number == len(self.curves):
            self._prompt_tokens = keys.shape[2]
            after = partial(self._score, keys)
        elif number is not None and self._queries is not None:
            after = partial(self._record, self._queries, number, keys.shape[2] - self._prompt_tokens - 1)
        # Layers that read this one's keys find a word, too.
        hand_off.leave(keys, HandOff(after, again=HandOff()))
        return keys, values

    def _record(
        self,
        recorder: QueryRecorder,
        layer: int,
        offset: int,
        queries: torch.Tensor,
        scale: float,
        whole_keys: torch.Tensor | None = None,
    ) -> None:
        assert self._watch.latest is not None
        recorder.add(layer, queries, self._watch.latest, offset)

    def _score(
        self, keys: torch.Tensor, queries: torch.Tensor, scale: float, whole_keys: torch.Tensor | None = None
    ) -> None:
        evidence = Evidence(queries, keys if whole_keys is None else whole_keys, scale)
        importance = accumulated(evidence).mean(dim=1, keepdim=True)
        self.curves.append(cumulative_importance(importance).tolist())


def measure(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    source: str,
    answer_tokens: int = ANSWER_TOKENS,
    progress: Callable[[int], None] = lambda done: None,
    notify: Notify = lambda text: None,
    launch: Launch | None = None,
) -> LayerProfile:
    """Run the samples, average each layer's cumulative importance, and record the queries of the answers.

    Args:
        loaded: the model.
        samples: prompts with or without a picture.
        source: what they are, in words.
        answer_tokens: length to which the model answers every sample.
        progress: called with the number of samples done.
        notify: called with one line where no queries can be recorded.
        launch: the processes that share the samples; this one alone where None. All of them get the same profile.

    Raises:
        PrefixKVError: no samples, a model that reads no images, or attention that is not a number.
    """
    if not samples:
        raise PrefixKVError("there are no samples to measure: give a folder or a data file with some")
    records_queries = _can_record(loaded, notify)
    number, count = (launch.number, launch.count) if launch else (0, 1)
    compared = min(COMPARED_SAMPLES, max(1, len(samples) // 2))
    own: list[_Measured] = []
    # Of these the model's answers are predicted again when all samples have been run; the last sample is done then.
    answers: list[_Answer] = []
    # The figures depend on the number of threads in their last digits, so it does not depend on that of processes.
    threads = torch.get_num_threads()
    torch.set_num_threads(division_of(loaded.model)[1])
    try:
        for index in range(number, len(samples), count):
            sample, answer = _measure_sample(loaded, samples[index], index, answer_tokens, records_queries)
            own.append(sample)
            if index < compared:
                answers.append(answer)
            progress(min(len(samples) - 1, count * len(own)))
        measured = sorted(launch.gather(own) if launch else own, key=lambda sample: sample.index)
        layers = tuple(average_curve(layer) for layer in zip(*(sample.curves for sample in measured), strict=True))
        look_ahead = _look_ahead(loaded, measured) if records_queries else None
        if records_queries and look_ahead is None:
            notify("the profile will hold no look-ahead queries: no answer has a second token")
        # Along answers whose own queries are not looked ahead by, as is the case of those that are to come.
        others = measured[compared:] or measured
        losses = _losses(loaded, _look_ahead(loaded, others) if look_ahead is not None else None, answers, launch)
        progress(len(samples))
    finally:
        torch.set_num_threads(threads)
    facts = tuple(sample.facts for sample in measured)
    created_by = f"prefixkv {__version__}"
    return LayerProfile(loaded.identity, SCORER, source, facts, layers, created_by, look_ahead, *losses)


def _look_ahead(loaded: LoadedModel, measured: Sequence[_Measured]) -> LookAheadFile | None:
    """Queries of the answers to some samples; None where no answer has a second token."""
    recorder = QueryRecorder(Rotation(loaded.model), loaded.geometry.layers)
    for sample in measured:
        assert sample.queries is not None
        recorder.absorb(sample.queries, loaded.device)
    return None if recorder.is_empty else LookAheadFile.of(*recorder.payload())


@dataclass(frozen=True)
class _Measured:
    """What one sample gives, to be sent to another process."""

    index: int
    curves: list[list[float]]
    facts: dict[str, Any]
    queries: QueryParts | None


@dataclass(frozen=True)
class _Answer:
    """What the model was asked and said: a sample's inputs on its device, and (tokens,), int64."""

    index: int
    inputs: Mapping[str, torch.Tensor]
    tokens: torch.Tensor


def _losses(
    loaded: LoadedModel, queries: LookAheadFile | None, answers: Sequence[_Answer], launch: Launch | None
) -> tuple[dict[int, float], dict[float, float], dict[float, float]]:
    """Nats a token that are lost along these answers and those of other processes.

    By the bits, by the share of entries that are kept as they are, and by that of the bytes in two precisions.
    """
    look_ahead = None
    if queries is not None:
        look_ahead = LookAhead.read(queries.read(), loaded.model, loaded.geometry, Losses())
    own = []
    for answer in answers:
        caches = dict[float | str, PrefixKVCache](rounded_caches(loaded.geometry).items())
        if look_ahead is not None:
            caches.update(evicting_caches(loaded.geometry, look_ahead).items())
            caches.update(mixing_caches(loaded.geometry, look_ahead).items())
        own.append((answer.index, divergences(loaded.model, loaded.geometry, answer.inputs, answer.tokens, caches)))
    measured = dict(launch.gather(own) if launch else own)
    each = [measured[index] for index in sorted(measured)]
    tokens = sum(count for _, count in each)
    if not tokens:
        return {}, {}, {}
    lost = {key: round(sum(nats[key] for nats, _ in each) / tokens, 6) for key in each[0][0]}
    by_bits = {key: loss for key, loss in lost.items() if isinstance(key, int)}
    mixed = {float(key): loss for key, loss in lost.items() if isinstance(key, str)}
    return by_bits, {key: loss for key, loss in lost.items() if isinstance(key, float)}, mixed


def _measure_sample(
    loaded: LoadedModel, sample: Sample, index: int, answer_tokens: int, records_queries: bool
) -> tuple[_Measured, _Answer]:
    if sample.image is not None and not loaded.takes_images:
        raise PrefixKVError(f"model {loaded.id!r} reads no images: give pieces of a text with --data text:FILE")
    model: Any = loaded.model
    images = () if sample.image is None else (sample.image,)
    if sample.is_raw:
        inputs = loaded.on_device({"input_ids": loaded.tokenizer(sample.prompt, return_tensors="pt")["input_ids"]})
    else:
        inputs = loaded.on_device(Prompt(loaded.processor, [Turn(sample.prompt, images)]).inputs)
    prompt_tokens = inputs["input_ids"].shape[1]
    answer_room(loaded.model.config, prompt_tokens)
    queries = QueryRecorder(Rotation(model), loaded.geometry.layers) if records_queries else None
    with attention.installed(model), watched(model) as watch, torch.no_grad():
        recorder = _Recorder(model.config, loaded.geometry, queries, watch)
        with picture_errors(inputs):
            out = model.generate(**inputs, **cache_argument(recorder), max_new_tokens=answer_tokens, do_sample=False)
    facts = {
        "image_sha256": sample.image_sha256,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": out.shape[1] - prompt_tokens,
    }
    measured = _Measured(index, recorder.curves, facts, None if queries is None else queries.parts)
    return measured, _Answer(index, inputs, out[0, prompt_tokens:])


def _can_record(loaded: LoadedModel, notify: Notify) -> bool:
    """Whether queries can be turned back to no position, as look-ahead queries are kept."""
    try:
        Rotation(loaded.model)
    except PrefixKVError as error:
        notify(f"the profile will hold no look-ahead queries, and method 'guided' will do without: {error}")
        return False
    return True
