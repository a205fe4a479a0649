"""A model for lm-evaluation-harness, whose prompts are compressed before their answers are scored or written.

The harness's own model scores a prompt and its answer in one pass, in which nothing is compressed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string

from prefixkv.generation.sampling import Sampling
from prefixkv.harnesses.subject import Subject
from prefixkv.inputs.token_ids import stop_tokens

NAME = "prefixkv"
MOST_TOKENS = 256
"""Of an answer, where a task does not say."""


class CompressedLM(TemplateLM):
    """Text tasks; keywords are those of `Subject`."""

    backend = "causal"

    def __init__(self, **options: Any) -> None:
        """Load the model.

        Args:
            **options: of `Subject`; what the harness gives beside them is left aside.
        """
        super().__init__()
        named = {"pretrained", "budget", "method", "codec", "device", "dtype", "memory", "rows", "log"}
        given = {name: value for name, value in options.items() if name in named and value is not None}
        self.subject = Subject(**given)
        self._tokenizer = self.subject.loaded.tokenizer

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> CompressedLM:
        """Make a model as the harness does, which adds a device and sizes of its own: the user's win."""
        return cls(**{**(additional_config or {}), **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> CompressedLM:
        """The same from `name=value,...`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return self.subject.loaded.id.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        ends = stop_tokens(self.subject.loaded)
        return min(ends) if ends else 0

    @property
    def prefix_token_id(self) -> int:
        """The token that comes before a text without a context."""
        begin = self._tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text."""
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self._tokenizer(string, **special)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model's own template has it."""
        return str(
            self._tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Score answers; those that follow one another with the same context share what it was compressed to."""
        found: list[tuple[float, bool]] = []
        for context, group in itertools.groupby(requests, key=lambda request: request[1]):
            members = list(group)
            inputs = {"input_ids": torch.tensor([context])}
            results = self.subject.scores(inputs, [continuation for _, _, continuation in members])
            for (asked, _, _), result in zip(members, results, strict=True):
                self.cache_hook.add_partial("loglikelihood", asked, result)
                found.append(result)
        self.subject.say_kept()
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, window by window, each behind what came before it."""
        length = getattr(self.subject.loaded.model.config.get_text_config(), "max_position_embeddings", 2048)
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0], add_special_tokens=False), self.prefix_token_id, length - 1, 1
            )
            pairs = [make_disjoint_window(window) for window in windows]
            scored = [
                self.subject.scores({"input_ids": torch.tensor([context])}, [text])[0][0] for context, text in pairs
            ]
            totals.append(sum(scored))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        self.subject.say_kept()
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Write answers, many together."""
        asked = []
        for request in requests:
            context, options = request.args
            until = options.get("until") or []
            sampling = Sampling(
                int(options.get("max_gen_toks") or options.get("max_new_tokens") or MOST_TOKENS),
                float(options.get("temperature") or 0.0) if options.get("do_sample", True) else 0.0,
                stop=tuple([until] if isinstance(until, str) else [text for text in until if text]),
            )
            asked.append(({"input_ids": torch.tensor([self.tok_encode(context)])}, sampling))
        texts = self.subject.answers(asked)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        self.subject.say_kept()
        return texts


def register() -> None:
    """Make the model known to the harness."""
    if NAME not in model_registry:
        model_registry.register(NAME, target="prefixkv.harnesses.lm_eval:CompressedLM")
