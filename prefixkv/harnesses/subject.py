"""A model under a budget, as harnesses measure it; every request says what its cache has kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prefixkv.cache import attention
from prefixkv.cache.usage import CacheUsage
from prefixkv.engine.engine import Engine
from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.continuation import GivenText, Kept
from prefixkv.evaluation.exercise import without_last
from prefixkv.evaluation.following import State, follow
from prefixkv.generation.detokenization import decoded
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.stop_text import before_stop
from prefixkv.inputs.positions import answer_room
from prefixkv.inputs.prompts import Prompt
from prefixkv.methods.table import DEFAULT_METHOD
from prefixkv.models.loading import Notify, load_model
from prefixkv.policy.codec import DEFAULT_CODEC
from prefixkv.profiles.guidance import make_cache
from prefixkv.transformers_compat import cache_argument


@dataclass(frozen=True)
class KeptRecord:
    """What one request has kept.

    Attributes:
        request: `generate` or `score`.
        prompt_tokens: read.
        kept_bytes: as a 16-bit cache's are counted, at the end.
        full_bytes: of a 16-bit cache of the same tokens.
        is_compressed: whether anything was evicted or packed.
    """

    request: str
    prompt_tokens: int
    kept_bytes: int
    full_bytes: int
    is_compressed: bool


class _Scored(GivenText):
    """A given text that also notes whether the model would have said it."""

    is_greedy = True

    def choose(self, likeliest: int, logits: torch.Tensor) -> int:
        token = super().choose(likeliest, logits)
        self.is_greedy = self.is_greedy and likeliest == token
        return token


class Subject:
    """A model, a budget, a method and a codec.

    Attributes:
        loaded: the model.
        records: one for each request so far.
    """

    def __init__(
        self,
        pretrained: str = "demo",
        budget: str | float = "20%",
        method: str = DEFAULT_METHOD,
        codec: str = DEFAULT_CODEC,
        device: str = "auto",
        dtype: str = "auto",
        memory: str | None = None,
        rows: int = 16,
        log: str | None = None,
        notify: Notify = print,
    ) -> None:
        """Load the model.

        Args:
            pretrained: as for `load_model`.
            budget: of each request's cache.
            method: name of a method.
            codec: name of a codec.
            device: as for `load_model`.
            dtype: likewise.
            memory: for the caches of requests that are answered together.
            rows: requests that are answered together at most.
            log: a file for a JSON line about each request; None for none.
            notify: called with one line for each thing that the user should know.

        Raises:
            PrefixKVError: the model or an option is not there, or the file cannot be written.
        """
        self.loaded = load_model(pretrained, device, dtype, notify)
        self.records: list[KeptRecord] = []
        self._budget, self._method, self._codec = str(budget), method, codec
        self._memory, self._rows, self._notify = memory, int(rows), notify
        row = self._new_cache().row
        self._keeps_all = row.keeps_all and row.codec.bits is None
        try:
            self._log = None if log is None else Path(log).open("a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise PrefixKVError(f"{log} cannot be written: {error.strerror}") from error

    def answers(self, asked: Sequence[tuple[Prompt | Mapping[str, torch.Tensor], Sampling]]) -> list[str]:
        """Answer prompts together, each as if it were alone.

        Args:
            asked: each prompt, and how its answer is chosen.

        Returns:
            The texts, without what stops them.
        """
        engine = Engine(
            self.loaded, self._method, self._memory, self._rows, None, notify=self._notify, codec=self._codec
        )
        config = self.loaded.model.config
        with engine:
            streams = []
            for prompt, sampling in asked:
                inputs = prompt.inputs if isinstance(prompt, Prompt) else prompt
                room = answer_room(config, inputs["input_ids"].shape[1])
                streams.append(engine.submit(inputs, self._budget, sampling.within(room, self._notify)))
            texts = []
            for stream, (_, sampling) in zip(streams, asked, strict=True):
                text = decoded(self.loaded.tokenizer, stream.result())
                texts.append(before_stop(text, sampling.stop))
                if stream.usage is not None:
                    self._note("generate", stream.prompt_tokens, stream.usage)
        return texts

    @torch.no_grad()
    def scores(self, inputs: Mapping[str, torch.Tensor], texts: Sequence[Sequence[int]]) -> list[tuple[float, bool]]:
        """How likely texts are behind a prompt that is read and compressed first; each token is a decode step.

        The prompt's last token is the first step, so that the first of a text comes from the compressed cache, too.

        Args:
            inputs: of the prompt.
            texts: each at least one token.

        Returns:
            For each the natural logarithm of its probability, and whether it is what the model says by itself.
        """
        model: Any = self.loaded.model
        cache = self._new_cache()
        first, last = without_last(self.loaded.on_device(dict(inputs)))
        with attention.installed(model):
            output = model(**first, **cache_argument(cache), use_cache=True, logits_to_keep=1)
            state = State(model, cache, output.logits[:, -1].float())
            if last:
                state.read(last)
            scored = [_Scored(text) for text in texts]
            follow(state, scored)
        self._note("score", inputs["input_ids"].shape[1], scored[0].kept[0])
        return [(-sum(each.losses), each.is_greedy) for each in scored]

    def summary(self) -> dict[str, Any]:
        """What all requests have kept together."""
        kept, full = (sum(getattr(record, name) for record in self.records) for name in ("kept_bytes", "full_bytes"))
        return {
            "requests": len(self.records),
            "compressed": sum(record.is_compressed for record in self.records),
            "kept_bytes": kept,
            "full_bytes": full,
            "bytes_fraction": kept / full if full else 1.0,
            "budget": self._budget,
            "method": self._method,
            "codec": self._codec,
        }

    def say_kept(self) -> None:
        """Say what all requests have kept, and how many were so short that nothing could go."""
        found = self.summary()
        self._notify(
            f"kept {found['kept_bytes']:,} of {found['full_bytes']:,} bytes ({found['bytes_fraction']:.1%}) in "
            f"{found['requests']:,} requests, {found['compressed']:,} of them compressed: method {self._method}, "
            f"codec {self._codec}, budget {self._budget}"
        )
        if not self._keeps_all and found["compressed"] < found["requests"]:
            short = found["requests"] - found["compressed"]
            self._notify(f"{short:,} requests were shorter than what the method always keeps: nothing was compressed")

    def _new_cache(self) -> Any:
        loaded = self.loaded
        return make_cache(loaded.model, loaded.identity, self._budget, self._method, self._notify, self._codec)

    def _note(self, request: str, prompt_tokens: int, usage: CacheUsage | Kept) -> None:
        is_compressed = usage.kept_bytes < usage.full_bytes
        record = KeptRecord(request, prompt_tokens, usage.kept_bytes, usage.full_bytes, is_compressed)
        self.records.append(record)
        if self._log is not None:
            self._log.write(json.dumps(asdict(record)) + "\n")
            self._log.flush()
