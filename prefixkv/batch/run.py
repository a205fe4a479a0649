"""A batch from its lines to its answers: pictures opened, rows put together, every record written when it is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefixkv.batch.answers import answer_together
from prefixkv.batch.lines import Line
from prefixkv.batch.plan import Room
from prefixkv.batch.results import ResultFile
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.errors import PrefixKVError
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.loading import LoadedModel, Notify
from prefixkv.policy.budget import Budget, format_bytes
from prefixkv.policy.methods import get_method
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.guidance import find_look_ahead
from prefixkv.transformers_compat import setting

LOOKAHEAD = 32
"""So many lines are opened, and put together by length, at a time. Lines are divided among processes by as many."""

DEFAULT_MEMORY = 2**30
"""For the caches of one batch, where there is no GPU."""
GPU_SHARE = 0.6
"""Of the memory that is free once the model is loaded."""

Progress = Callable[[int], None]


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class Batch:
    """What is asked, and how.

    Attributes:
        lines: of the batch file.
        folder: what the pictures' relative paths start from.
        budget: what each row may keep; or a configuration, which brings its shares and method.
        method: name of a method; not used with a configuration.
        new_tokens: longest answer.
        most_rows: answered together.
        memory_bytes: for the caches of the rows that are answered together; a part of what is free where None.
        notify: called with one line where the method does without a profile.
    """

    lines: Sequence[Line]
    folder: Path
    budget: Budget | PrefixConfig
    method: str
    new_tokens: int = 512
    most_rows: int = 16
    memory_bytes: int | None = None
    notify: Notify = _silent

    def settings(self, loaded: LoadedModel) -> str:
        """Digest of all that an answer depends on besides its line."""
        budget, method, shares = self._rule()
        look_ahead = find_look_ahead(loaded.model, loaded.identity, method, self.notify)
        queries = b"" if look_ahead is None else look_ahead.queries[0].float().cpu().numpy().tobytes()
        rule = [budget.kind, str(budget.amount), method, shares, hashlib.sha256(queries).hexdigest()]
        content = [loaded.identity.as_dict(), rule, self.new_tokens]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def run(
        self,
        loaded: LoadedModel,
        results: ResultFile,
        done: Mapping[int, Any],
        process: int = 0,
        processes: int = 1,
        progress: Progress = lambda lines: None,
    ) -> None:
        """Answer what has no record.

        Args:
            loaded: the model.
            results: where records go.
            done: records that are there, by line.
            process: number of this process.
            processes: how many share the lines.
            progress: called with the number of lines that are done since the last call.
        """
        room = self._room(loaded)
        for start in range(0, len(self.lines), LOOKAHEAD):
            if start // LOOKAHEAD % processes != process:
                continue
            todo = [line for line in self.lines[start : start + LOOKAHEAD] if line.number not in done]
            prompts: list[tuple[Line, Prompt]] = []
            for line in todo:
                try:
                    prompts.append((line, self._prompt(loaded, line, room)))
                except PrefixKVError as error:
                    results.append(line, {"error": str(error)})
                    progress(1)
            for rows in room.batches([prompt.tokens for _, prompt in prompts]):
                self._answer(loaded, [prompts[index] for index in rows], results, progress)

    def _room(self, loaded: LoadedModel) -> Room:
        memory = self.memory_bytes
        if memory is None:
            memory = DEFAULT_MEMORY
            if loaded.device.type == "cuda":
                memory = int(torch.cuda.mem_get_info(loaded.device)[0] * GPU_SHARE)
        budget, method, _ = self._rule()
        return Room(loaded.geometry, budget, get_method(method).keeps_all, memory, self.most_rows, self.new_tokens)

    def _rule(self) -> tuple[Budget, str, Sequence[float] | None]:
        """Each row's budget, the method, and the layers' shares where a configuration gives them."""
        if isinstance(self.budget, PrefixConfig):
            return self.budget.as_budget(), self.budget.method, self.budget.keep_fractions
        return self.budget, self.method, None

    def _prompt(self, loaded: LoadedModel, line: Line, room: Room) -> Prompt:
        """The line as model inputs.

        Raises:
            PrefixKVError: it cannot be asked; says why.
        """
        if line.error is not None:
            raise PrefixKVError(line.error)
        if line.sources and not loaded.takes_images:
            raise PrefixKVError(f"model {loaded.id!r} reads no images: leave image away, or choose another model")
        if loaded.id == "demo" and not line.sources:
            raise PrefixKVError("the demo model answers questions about a picture: give an image")
        pictures = line.pictures(self.folder)
        try:
            prompt = Prompt(loaded.processor, [Turn(line.prompt, pictures)])
        # What a model's processor raises for a picture that it cannot take is of many kinds.
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise PrefixKVError(f"the model's processor cannot take this line: {reason}") from error
        longest = setting(loaded.model.config.get_text_config(decoder=True), "max_position_embeddings")
        if longest is not None and prompt.tokens > longest:
            raise PrefixKVError(f"the prompt has {prompt.tokens:,} tokens, and the model reads {longest:,}: shorten it")
        needed = room.batch_bytes(prompt.tokens, 1)
        if needed > room.memory_bytes:
            raise PrefixKVError(
                f"the prompt's {prompt.tokens:,} tokens need {format_bytes(needed)} for their cache, and there are "
                f"{format_bytes(room.memory_bytes)}: give a smaller --budget or more --memory"
            )
        return prompt

    def _answer(
        self, loaded: LoadedModel, rows: Sequence[tuple[Line, Prompt]], results: ResultFile, progress: Progress
    ) -> None:
        """Answer rows together; where the device's memory does not suffice, in two halves."""
        try:
            answers = answer_together(loaded, [prompt for _, prompt in rows], self._new_cache(loaded), self.new_tokens)
        except torch.OutOfMemoryError:
            answers = None
        # Out here, where the exception no longer holds on to the tensors of the pass that failed.
        if answers is not None:
            for (line, _), answer in zip(rows, answers, strict=True):
                results.append(line, answer)
            progress(len(rows))
        elif len(rows) == 1:
            results.append(rows[0][0], {"error": f"{loaded.device} ran out of memory: give a smaller --budget"})
            progress(1)
        else:
            torch.cuda.empty_cache()
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                self._answer(loaded, half, results, progress)

    def _new_cache(self, loaded: LoadedModel) -> Callable[[int], PrefixKVCache]:
        budget, method, shares = self._rule()
        look_ahead = find_look_ahead(loaded.model, loaded.identity, method, _silent)

        def new_cache(rows: int) -> PrefixKVCache:
            whole = Budget(budget.text, budget.kind, budget.amount * rows) if budget.kind == "bytes" else budget
            return PrefixKVCache(loaded.geometry, whole, method, shares, look_ahead=look_ahead)

        return new_cache
