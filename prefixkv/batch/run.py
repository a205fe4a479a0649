"""A batch from its lines to its answers: every record is written when its answer is there."""

from __future__ import annotations

import hashlib
import json
import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prefixkv.batch.lines import Line
from prefixkv.batch.preparation import Preparation
from prefixkv.batch.speed import Speed
from prefixkv.engine.engine import Engine
from prefixkv.engine.stream import Stream
from prefixkv.errors import PrefixKVError, reason
from prefixkv.generation.detokenization import decoded
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.special_tokens import left_out
from prefixkv.generation.stop_text import before_stop, stop_texts
from prefixkv.inputs.positions import answer_room
from prefixkv.inputs.prompts import Prompt
from prefixkv.inputs.template_args import say_unused
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.generation_settings import followed_settings
from prefixkv.models.loading import LoadedModel, Notify
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.guidance import find_look_ahead

BLOCK = 32
"""Lines are divided among processes by as many."""
WAITING = 8
"""Lines that are asked beyond those that can run, so that the engine never lacks one."""
PULSE = 0.25
"""Seconds between two reports while nothing ends."""
MEASURE = "16-bit shares, limits of all that is allocated"
"""How budgets count, which answers depend on."""


def _silent(text: str) -> None:
    pass


class Results(Protocol):
    """Takes the records of lines."""

    def append(self, line: Line, content: Mapping[str, Any]) -> None:
        """Take what is there to say of a line: its answer, or `error`."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        ended: lines that have a record by now, of those that had none when the run began.
        running: lines that are answered now.
        tokens: generated so far.
        seconds: since the run began.
        used_bytes: that the caches hold.
        reserved_bytes: for them.
        prefix_bytes: of both, what several lines begin with.
    """

    ended: int
    running: int
    tokens: int
    seconds: float
    used_bytes: int
    reserved_bytes: int
    prefix_bytes: int


@dataclass(frozen=True)
class Batch:
    """What is asked, and how.

    Attributes:
        lines: of the batch file.
        folder: what the pictures' relative paths start from.
        budget: what each row may keep; or a configuration, which brings its shares and method.
        method: name of a method; not used with a configuration.
        new_tokens: longest answer, where a line does not say its own.
        most_rows: answered together; fewer where memory does not suffice.
        memory: bytes for the caches of the rows that are answered together, or for those on each device; a part of what
            is free where None.
        notify: called with one line where the method does without a profile.
        trace: a file for a trace of reads and steps; None for none.
        stop: texts that end an answer, where a line does not say its own.
        template_args: values for the model's chat template, by name.
        max_pixels: a picture with more is scaled down to them; None for no limit.
        keep_marks: whether special tokens are part of the answers.
        system: instructions before each question, where a line does not say its own.
        sampling: further arguments of `Sampling`, where a line does not say its own.
        codec: name of a codec; not used with a configuration.
    """

    lines: Sequence[Line]
    folder: Path
    budget: Budget | PrefixConfig
    method: str
    new_tokens: int = 512
    most_rows: int = 16
    memory: int | Sequence[int] | None = None
    notify: Notify = _silent
    trace: Path | None = None
    stop: tuple[str, ...] = ()
    template_args: Mapping[str, Any] = field(default_factory=dict)
    max_pixels: int | None = None
    keep_marks: bool = False
    system: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    codec: str = DEFAULT_CODEC

    def settings(self, loaded: LoadedModel) -> str:
        """Digest of all that an answer depends on besides its line."""
        budget, method, shares = self._rule()
        look_ahead = find_look_ahead(loaded.model, loaded.identity, method, self.notify)
        recorded = () if look_ahead is None else look_ahead.queries
        queries = b"" if not recorded else recorded[0].float().cpu().numpy().tobytes()
        rule = [budget.kind, str(budget.amount), method, shares, hashlib.sha256(queries).hexdigest()]
        content: list[Any] = [loaded.identity.as_dict(), rule, self.new_tokens]
        named = ("stop", "template_args", "max_pixels", "keep_marks", "system", "sampling")
        more: dict[str, Any] = {name: value for name in named if (value := getattr(self, name))}
        codec = self.budget.codec if isinstance(self.budget, PrefixConfig) else self.codec
        if codec != DEFAULT_CODEC:
            more["codec"] = codec
        if loaded.identity.geometry.dtype == "float32" or budget.kind == "bytes":
            # Earlier versions counted these budgets otherwise: a file that one has begun is not gone on with.
            more["measure"] = MEASURE
        if more := more | followed_settings(loaded.model.generation_config):
            content.append(more)
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def run(
        self,
        loaded: LoadedModel,
        results: Results,
        done: Mapping[int, Any],
        process: int = 0,
        processes: int = 1,
        progress: Callable[[Progress], None] = lambda state: None,
        lines: Iterable[Line] | None = None,
    ) -> Speed:
        """Answer what has no record.

        Args:
            loaded: the model.
            results: where records go.
            done: records that are there, by line.
            process: number of this process.
            processes: how many share the lines.
            progress: called with how far the run is, whenever a line has ended and four times a second.
            lines: instead of the batch's own, each taken when there is room for it.

        Returns:
            How fast it was.
        """
        todo = by_pictures(
            line
            for index, line in enumerate(self.lines)
            if index // BLOCK % processes == process and line.number not in done
        )
        named: dict[str, Any] = {}
        for line in todo if lines is None else ():
            named |= line.template_args or {}
        say_unused(named | dict(self.template_args), loaded.processor, self.notify)
        engine = Engine(
            loaded,
            self.method,
            self.memory,
            self.most_rows,
            # Nobody reads along: the sooner rows run, the more run together.
            allowance=None,
            trace=self.trace,
            notify=self.notify,
            codec=self.codec,
        )
        with engine:
            run = _Run(self, loaded, engine, results, progress)
            preparation = Preparation(loaded, self.folder, self.template_args, self.max_pixels, self.system)
            prompts = preparation.prompts(todo if lines is None else lines, self.most_rows + WAITING)
            try:
                for line, prompt in prompts:
                    run.ask(line, prompt)
                    while len(run.asked) >= self.most_rows + WAITING:
                        run.take()
                while run.asked:
                    run.take()
            finally:
                prompts.close()
        if preparation.scaled:
            limit = "their line's" if self.max_pixels is None else f"{self.max_pixels:,}"
            self.notify(f"pictures that were scaled down to {limit} pixels or less: {preparation.scaled}")
        if preparation.strange:
            from prefixkv.demo.drawn import strangeness

            self.notify(strangeness(preparation.strange))
        run.speed.seconds = time.perf_counter() - run.began
        prefixes = engine.prefixes
        run.speed.prefixes, run.speed.lines_sharing = prefixes.read, prefixes.shared
        run.speed.prefix_bytes = prefixes.most_bytes
        return run.speed

    def _rule(self) -> tuple[Budget, str, Sequence[float] | None]:
        """Each row's budget, the method, and the layers' shares where a configuration gives them."""
        if isinstance(self.budget, PrefixConfig):
            return self.budget.as_budget(), self.budget.method, self.budget.keep_fractions
        return self.budget, self.method, None


def by_pictures(lines: Iterable[Line]) -> list[Line]:
    """Lines in their order, but those of the same pictures behind the first of them, so that they are read together."""
    groups: dict[Any, list[Line]] = {}
    for line in lines:
        groups.setdefault((line.system, line.sources) if line.sources else line.number, []).append(line)
    return [line for group in groups.values() for line in group]


@dataclass
class _Run:
    """One run of a batch on an engine.

    Attributes:
        asked: the lines that the engine has, by their request's number.
    """

    batch: Batch
    loaded: LoadedModel
    engine: Engine
    results: Results
    progress: Callable[[Progress], None]
    asked: dict[int, Line] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)
    began: float = field(default_factory=time.perf_counter)
    ended: int = 0
    _streams: queue.SimpleQueue[Stream] = field(default_factory=queue.SimpleQueue)

    def ask(self, line: Line, prompt: Prompt | PrefixKVError) -> None:
        """Give a line to the engine; what cannot be asked has its record at once."""
        if isinstance(prompt, PrefixKVError):
            self._record(line, {"error": str(prompt)})
            return
        sampling = self._sampling(line)
        try:
            room = answer_room(self.loaded.model.config, prompt.tokens)
            # A shorter answer says so itself: it ends by its length.
            sampling = sampling.within(room, _silent)
            silent = self._silent_tokens(line)
            stream = self.engine.submit(prompt, self.batch.budget, sampling, on_end=self._streams.put, left_out=silent)
        except Exception as error:  # as above
            self._record(line, {"error": reason(error)})
        else:
            self.asked[stream.number] = line

    def _sampling(self, line: Line) -> Sampling:
        asked: dict[str, Any] = {"max_new_tokens": self.batch.new_tokens, "stop": self.batch.stop}
        return Sampling(**asked | dict(self.batch.sampling) | dict(line.sampling))

    def _silent_tokens(self, line: Line) -> frozenset[int] | None:
        """See `left_out`."""
        keep_marks = self.batch.keep_marks if line.keep_marks is None else line.keep_marks
        return left_out(self.loaded.processor, stop_tokens(self.loaded), keep_marks)

    def take(self) -> None:
        """Wait for a line's end, and write its record."""
        try:
            stream = self._streams.get(timeout=PULSE)
        except queue.Empty:
            self._report()
            return
        line = self.asked.pop(stream.number)
        try:
            tokens = stream.result()
        except Exception as error:  # whatever it is, it is this line's own
            self._record(line, {"error": reason(error)})
            return
        self.speed.add(stream.submitted_at, stream.times)
        text = decoded(self.loaded.tokenizer, tokens, self._silent_tokens(line))
        stops = stop_texts(self._sampling(line), self.loaded.model.generation_config)
        answer = before_stop(text, stops).strip()
        record = {"answer": answer, "prompt_tokens": stream.prompt_tokens, "new_tokens": len(tokens)}
        self._record(line, record | {"finish_reason": stream.finish_reason})

    def _record(self, line: Line, content: dict[str, Any]) -> None:
        self.results.append(line, content)
        self.ended += 1
        self._report()

    def _report(self) -> None:
        engine, seconds = self.engine, time.perf_counter() - self.began
        shared = engine.prefix_bytes
        sizes = engine.used_bytes + shared, engine.reserved_bytes, shared
        self.progress(Progress(self.ended, engine.running, engine.generated_tokens, seconds, *sizes))
