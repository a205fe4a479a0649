"""A model for lmms-eval, found by its entry point: pictures and questions on a compressed cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.harnesses.subject import Subject
from prefixkv.inputs.images import as_pictures
from prefixkv.inputs.parts import read_parts
from prefixkv.inputs.prompts import Prompt, Turn

MOST_TOKENS = 1024
"""Of an answer, where a task does not say, as the harness's own models have it."""


class CompressedChat(lmms):
    """Chat tasks; keywords of `--model_args` are those of `Subject`."""

    is_simple = False

    def __init__(self, batch_size: int | str = 1, **options: Any) -> None:
        """Load the model.

        Args:
            batch_size: answered together, where `rows` is not given.
            **options: of `Subject`; what the harness gives beside them is left aside.
        """
        super().__init__()
        named = {"pretrained", "budget", "method", "codec", "device", "dtype", "memory", "rows", "log"}
        given = {name: value for name, value in options.items() if name in named and value is not None}
        self.subject = Subject(**{"rows": int(batch_size), **given})

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request's conversation."""
        asked = []
        for request in requests:
            _, doc_to_messages, options, doc_id, task, split = request.args
            messages = doc_to_messages(self.task_dict[task][split][doc_id])
            asked.append((self._prompt(turns_of(messages)), _sampling(options)))
        texts = self.subject.answers(asked)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", (request.args[0], request.args[2]), text)
        self.subject.say_kept()
        return [GenerationResult(text=text) for text in texts]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request's conversation round by round, as the task's own messages go on."""
        found = []
        for request in requests:
            _, doc_to_messages, options, doc_id, task, split = request.args
            doc, answers, info = self.task_dict[task][split][doc_id], list[str](), None
            messages: Any = doc_to_messages(doc)
            while True:
                answers += self.subject.answers([(self._prompt(turns_of(messages)), _sampling(options))])
                more = doc_to_messages(doc, round_idx=len(answers), previous_output=answers, previous_round_info=info)
                messages, is_over, answers, info = more
                if is_over or messages is None:
                    break
            found.append(answers)
        self.subject.say_kept()
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Score an answer behind each request's compressed conversation."""
        found = []
        tokenizer = self.subject.loaded.tokenizer
        for request in requests:
            context, doc_to_target, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            target = doc_to_target if isinstance(doc_to_target, str) else doc_to_target(doc)
            turn = Turn(context, as_pictures([picture for picture in doc_to_visual(doc) or () if picture is not None]))
            ids = tokenizer(target, add_special_tokens=False)["input_ids"]
            found += self.subject.scores(self._prompt([turn]).inputs, [ids])
        self.subject.say_kept()
        return found

    def _prompt(self, turns: list[Turn]) -> Prompt:
        return Prompt(self.subject.loaded.processor, turns)


def turns_of(messages: Sequence[Any]) -> list[Turn]:
    """The harness's messages as turns, the last one to be answered.

    Raises:
        PrefixKVError: there is sound or video among them, or no question at the end.
    """
    turns: list[Turn] = []
    for message in messages:
        given = message if isinstance(message, dict) else message.model_dump()
        parts: list[dict[str, Any]] = []
        for part in (
            [{"type": "text", "text": given["content"]}] if isinstance(given["content"], str) else given["content"]
        ):
            if part["type"] == "text":
                parts.append({"text": part["text"]})
            elif part["type"] == "image":
                parts.append({"image": part.get("url", part.get("image"))})
            else:
                raise PrefixKVError(f"a message holds {part['type']}: texts and pictures are read")
        if given["role"] == "assistant":
            turns[-1].answer = read_parts(parts).prompt
            continue
        if given["role"] == "system":
            raise PrefixKVError("a message is a system message: texts and pictures of questions are read")
        read = read_parts(parts)
        pictures = as_pictures([_picture(source) for source in read.pictures])
        turns.append(Turn(read.prompt, pictures, layout=read.layout))
    if not turns or turns[-1].answer is not None:
        raise PrefixKVError("the last message is no question")
    return turns


def _picture(source: Any) -> Image.Image | str:
    return source if isinstance(source, (Image.Image, str)) else Image.fromarray(source)


def _sampling(options: dict[str, Any]) -> Sampling:
    until = options.get("until") or []
    stops = [until] if isinstance(until, str) else list(until)
    heat = float(options.get("temperature") or 0.0) if options.get("do_sample", True) else 0.0
    most = int(options.get("max_new_tokens") or MOST_TOKENS)
    return Sampling(most, heat, float(options.get("top_p") or 1.0), stop=tuple(text for text in stops if text))


def manifest() -> Any:
    """What the entry point gives."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("prefixkv", chat_class_path="prefixkv.harnesses.lmms_eval.CompressedChat")
