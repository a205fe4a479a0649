"""Where requests become prompts and prompts answers: one model, one engine, and what a request may leave unsaid."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefixkv.chat.picture_intake import take_pictures
from prefixkv.engine.stream import Stream
from prefixkv.errors import OptionError
from prefixkv.generation.answer import AnswerWriter
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.special_tokens import left_out
from prefixkv.generation.stop_text import stop_texts
from prefixkv.inputs.download import fetch_public
from prefixkv.inputs.images import picture_facts
from prefixkv.inputs.positions import answer_room
from prefixkv.inputs.prompts import Prompt
from prefixkv.inputs.template_args import check_template_args, say_unused
from prefixkv.inputs.token_ids import end_tokens
from prefixkv.inputs.turn import Turn
from prefixkv.models.frontend import Frontend
from prefixkv.policy.budget import Budget
from prefixkv.profiles.config import PrefixConfig
from prefixkv.schemas.chat_request import ChatRequestSchema
from prefixkv.schemas.field import shown_text
from prefixkv.server.failures import RefusedError
from prefixkv.server.messages import read_messages

if TYPE_CHECKING:
    from prefixkv.engine.engine import Engine
    from prefixkv.server.remote_engine import RemoteEngine

DEMO_WITHOUT_PICTURE = "the demo model answers questions about a drawn scene, and there is no picture"


@dataclass(frozen=True)
class Manner:
    """What holds for requests that do not say otherwise.

    Attributes:
        budget: of each conversation's cache; or a configuration, which brings its method and codec.
        method: name of a method.
        codec: name of a codec.
        new_tokens: longest answer.
        max_pixels: a picture with more is scaled down to them; None for no limit.
        allow_addresses: whether pictures are fetched from the web.
    """

    budget: Budget | PrefixConfig
    method: str
    codec: str
    new_tokens: int = 512
    max_pixels: int | None = None
    allow_addresses: bool = False


@dataclass
class Asked:
    """A request that the engine has.

    Attributes:
        stream: of its tokens.
        writer: turns them into text.
        sampling: how they are chosen.
        rule: budget, method and codec, as they are called.
        notices: what the one who asked should know.
        pictures: of the question, each its `sha256`, `width` and `height`; None where nobody asked for them.
    """

    stream: Stream
    writer: AnswerWriter
    sampling: Sampling
    rule: dict[str, str]
    notices: list[str]
    pictures: list[dict[str, Any]] | None = None


class Desk:
    """Takes requests, in any thread.

    Attributes:
        frontend: of the model.
        engine: answers.
        ends: ids that end an answer.
        names: by which the model may be asked for.
    """

    def __init__(self, frontend: Frontend, engine: Engine | RemoteEngine, manner: Manner, name: str = "") -> None:
        """Begin.

        Args:
            frontend: of the model.
            engine: of the same model, in this process or in another.
            manner: of requests that do not say otherwise.
            name: the model's, as the user has given it.
        """
        self.frontend, self.engine, self._manner = frontend, engine, manner
        self.ends = end_tokens(frontend, frontend.tokenizer)
        self.names = list(dict.fromkeys([frontend.id, *([name] if name not in ("", "auto") else [])]))

    def ask(self, asked: ChatRequestSchema, owner: str, woken: Callable[[Stream], None]) -> Asked:
        """Make a request into a prompt and give it to the engine.

        Args:
            asked: the request.
            owner: whose it is.
            woken: called in the engine's thread when a token has come and when the answer has ended.

        Raises:
            RefusedError: the model is not this one.
            PrefixKVError: it cannot be answered; says why.
        """
        if asked.model is not None and asked.model not in self.names:
            raise self.other_model(asked.model)
        frontend, notices = self.frontend, list[str]()
        silent = left_out(frontend.processor, self.ends, asked.keep_marks or False)
        sampling = self._sampling(asked)
        texts = stop_texts(sampling, frontend.generation_config)
        writer = AnswerWriter(frontend.tokenizer, self.ends, texts, silent)
        prompt = self._prompt(asked, notices)
        sampling = sampling.within(answer_room(frontend.config, prompt.tokens), notices.append)
        budget, method, codec = self._rule(asked)
        stream = self.engine.submit(
            prompt,
            budget,
            sampling,
            on_end=woken,
            left_out=silent,
            method=method,
            codec=codec,
            owner=owner,
            keep=True,
            on_token=woken,
        )
        words = budget.as_budget().text if isinstance(budget, PrefixConfig) else budget.text
        # While the engine reads already.
        pictures = [picture_facts(image) for image in prompt.turns[-1].images] if asked.picture_facts else None
        return Asked(stream, writer, sampling, {"method": method, "codec": codec, "budget": words}, notices, pictures)

    def warm_up(self) -> None:
        """Have a short question answered that nobody has asked.

        So the first one that somebody asks does not wait for what is done once: the profile and the chat template are
        read, kernels loaded, and on a GPU the step is captured.
        """
        own = self._manner
        # Whatever is wrong with it is said to who asks.
        with contextlib.suppress(Exception):
            prompt = Prompt(self.frontend.processor, [Turn("Hello")])
            asked = self.engine.submit(prompt, own.budget, Sampling(2), method=own.method, codec=own.codec)
            asked.result()

    def other_model(self, name: str) -> RefusedError:
        """What is said to who asks for another model."""
        text = f"model {shown_text(name)} is not served: ask for {self.names[0]}"
        return RefusedError(404, text, "model_not_found")

    def _prompt(self, asked: ChatRequestSchema, notices: list[str]) -> Prompt:
        frontend, limit = self.frontend, asked.max_pixels or self._manner.max_pixels
        strange = _refuse_strange if asked.known_pictures_only else None
        system, turns = read_messages(
            asked.messages,
            lambda pictures: take_pictures(pictures, frontend, limit, notices.append, strange),
            fetch_public if self._manner.allow_addresses else None,
        )
        arguments = check_template_args(asked.template_args)
        say_unused(arguments, frontend.processor, notices.append)
        if frontend.id == "demo" and not any(turn.images for turn in turns):
            notices.append(DEMO_WITHOUT_PICTURE)
        prompt = Prompt(frontend.processor, turns, system, arguments)
        if system and not prompt.shows_system():
            raise OptionError(f"model {frontend.id!r} takes no system message: say it in a question")
        return prompt

    def _sampling(self, asked: ChatRequestSchema) -> Sampling:
        if asked.top_logprobs is not None and not asked.logprobs:
            raise OptionError("top_logprobs needs logprobs: give logprobs true, too")
        given: dict[str, Any] = {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k}
        if asked.seed is not None:
            given["seed"] = asked.seed % 2**63
        return Sampling(
            asked.longest or self._manner.new_tokens,
            stop=tuple(asked.stop),
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            **{name: value for name, value in given.items() if value is not None},
        )

    def _rule(self, asked: ChatRequestSchema) -> tuple[Budget | PrefixConfig, str, str]:
        """Budget or configuration, method and codec; who names one of the three leaves a configuration's shares."""
        own = self._manner.budget
        if isinstance(own, PrefixConfig):
            if asked.budget is None and asked.method is None and asked.codec is None:
                return own, own.method, own.codec
            plain, method, codec = own.as_budget(), own.method, own.codec
        else:
            plain, method, codec = own, self._manner.method, self._manner.codec
        budget = plain if asked.budget is None else Budget.parse(asked.budget)
        return budget, asked.method or method, asked.codec or codec


def _refuse_strange(text: str) -> None:
    raise OptionError(text)
