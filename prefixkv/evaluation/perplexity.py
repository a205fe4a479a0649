"""Teacher-forced perplexity of answers on a compressed cache, eviction while decoding included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.evaluation.exercise import without_last
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.completed_passes import completed_passes
from prefixkv.models.loading import LoadedModel
from prefixkv.profiles.calibration import Sample
from prefixkv.transformers_compat import cache_argument


@dataclass(frozen=True)
class Reference:
    """A prompt and the answer that is to be predicted.

    Attributes:
        inputs: the model's inputs for the prompt.
        tokens: the answer's token ids.
    """

    inputs: dict[str, torch.Tensor]
    tokens: list[int]


def own_answers(loaded: LoadedModel, samples: Sequence[Sample], answer_tokens: int) -> list[Reference]:
    """The model's own greedy answers on the full cache, as references.

    Args:
        loaded: the model.
        samples: prompts with or without a picture.
        answer_tokens: longest answer.
    """
    model: Any = loaded.model
    references = []
    for sample in samples:
        images = () if sample.image is None else (sample.image,)
        inputs = loaded.on_device(Prompt(loaded.processor, [Turn(sample.prompt, images)]).inputs)
        cache = DynamicCache(config=model.config)
        with torch.no_grad(), completed_passes(model):
            out = model.generate(**inputs, **cache_argument(cache), max_new_tokens=answer_tokens, do_sample=False)
        references.append(Reference(inputs, out[0, inputs["input_ids"].shape[1] :].tolist()))
    return references


@torch.no_grad()
def perplexity(loaded: LoadedModel, references: Sequence[Reference], new_cache: Callable[[], PrefixKVCache]) -> float:
    """Perplexity: exp of the mean negative log-likelihood of all answer tokens, in float32.

    Every token is predicted through the cache as it is when the token is generated: the prompt without its last token
    is read and compressed, then every token is a decode step.

    Args:
        loaded: the model.
        references: what is to be predicted.
        new_cache: makes an empty cache for each reference.
    """
    model: Any = loaded.model
    total, count = 0.0, 0
    with attention.installed(model):
        for reference in references:
            cache = new_cache()
            inputs, last = without_last(reference.inputs)
            if last:
                model(**inputs, **cache_argument(cache), use_cache=True, logits_to_keep=1)
                inputs = {"input_ids": torch.tensor([last], device=loaded.device)}
            for token in reference.tokens:
                logits = model(**inputs, **cache_argument(cache), use_cache=True, logits_to_keep=1).logits[0, -1]
                total -= float(logits.float().log_softmax(dim=-1)[token])
                count += 1
                inputs = {"input_ids": torch.tensor([[token]], device=loaded.device)}
    return math.exp(total / count)
