"""A conversation about images on one compressed cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any

from PIL import Image

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.snapshot import CacheSnapshot
from prefixkv.cache.usage import CacheUsage
from prefixkv.chat.conversation_state import ConversationState
from prefixkv.chat.device_memory import memory_errors
from prefixkv.chat.picture_intake import take_pictures
from prefixkv.chat.reader import Reader
from prefixkv.chat.reading import Reading
from prefixkv.engine.memory import peak_bytes
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.generation.answer import Answer
from prefixkv.generation.sampling import Sampling
from prefixkv.host_memory import give_back
from prefixkv.inputs.images import Picture
from prefixkv.inputs.parts import read_parts
from prefixkv.inputs.picture_size import check_max_pixels
from prefixkv.inputs.picture_source import open_source
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.inputs.template_args import check_template_args, say_unused
from prefixkv.methods.table import DEFAULT_METHOD, Method
from prefixkv.models.loading import LoadedModel, Notify
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, Codec
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.guidance import make_cache

__all__ = ["Answer", "Conversation"]

UNDO_TURNS = 4
"""So many turns can be taken back at once, each at the price of a copy of the compressed cache in host memory."""


class Conversation:
    """Asks a model question after question; later turns read only what is new.

    What was compressed in an earlier turn stays compressed. Where the rendered conversation does not begin with what
    the cache has read (a tokenizer that spells an answer differently), it is read again as a whole, and `notify` says
    so. A turn whose reader stops reading is kept as far as it was said; one that ends in an error was never asked: the
    cache is, bit for bit, what it was before.

    Attributes:
        loaded: the model.
        sampling: how tokens are chosen; may be replaced between two questions.
        config: the configuration that gives the layers' shares; None where the method finds them.
        system: instructions before the first turn.
        template_args: values for the model's chat template, by name.
        max_pixels: pictures that are added are scaled down to so many; None for no limit.
        keep_marks: whether special tokens are part of the answers.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        budget: str | float | Budget | PrefixConfig = "20%",
        method: str | Method = DEFAULT_METHOD,
        sampling: Sampling | None = None,
        notify: Notify = lambda text: None,
        template_args: Mapping[str, Any] | None = None,
        max_pixels: int | None = None,
        keep_marks: bool = False,
        codec: str | Codec = DEFAULT_CODEC,
    ) -> None:
        """Begin a conversation.

        Args:
            loaded: from `prefixkv.load_model`.
            budget: what to keep, as `Budget.parse` reads it; or a configuration, which brings its shares and method.
            method: name of a method; not used with a configuration.
            sampling: how tokens are chosen; greedy, at most 512 tokens, where None.
            notify: called with one line for each thing that the user should know.
            template_args: values for the model's chat template, by name, such as `{"enable_thinking": False}`.
            max_pixels: a picture with more is scaled down to them; None for no limit.
            keep_marks: whether special tokens, such as those of boxes, are part of the answers.
            codec: in which precision entries are stored; not used with a configuration.

        Raises:
            OptionError: an option has a value that is not allowed, or the codec does not fit the model's head size.
            BudgetTooSmallError: a hard limit cannot hold the method's protected entries.
        """
        self.loaded, self.sampling, self._notify = loaded, sampling or Sampling(), notify
        self.system, self.template_args = "", check_template_args(template_args)
        say_unused(self.template_args, loaded.processor, notify)
        self.max_pixels, self.keep_marks = check_max_pixels(max_pixels), keep_marks
        self._turns, self._answers, self._waiting = list[Turn](), list[Answer](), list[Image.Image]()
        self._earlier: deque[ConversationState] = deque(maxlen=UNDO_TURNS)
        self.change_budget(budget, method, codec)

    def __repr__(self) -> str:
        """Model, rule and length in one line."""
        rule = f"method {self.cache.method.name}, codec {self.cache.codec.name}, budget {self.cache.budget.text}"
        return f"<Conversation with {self.loaded.id}: {rule}, {len(self._turns)} turns>"

    @property
    def cache(self) -> PrefixKVCache:
        """The compressed cache."""
        return self._reader.cache

    @property
    def reading(self) -> Reading:
        """What the cache has read."""
        return self._reader.reading

    @property
    def last_answer(self) -> Answer | None:
        """The newest answer and what it cost."""
        return self._answers[-1] if self._answers else None

    @property
    def history(self) -> list[tuple[Turn, Answer]]:
        """All turns with their answers, oldest first."""
        return list(zip(self._turns, self._answers, strict=True))

    @property
    def waiting(self) -> tuple[Image.Image, ...]:
        """Pictures that belong to the next question."""
        return tuple(self._waiting)

    def usage(self) -> CacheUsage:
        """What the cache holds now."""
        return self.cache.usage()

    def peak_device_bytes(self) -> int:
        """Most memory so far, see `prefixkv.engine.memory`."""
        return peak_bytes(self.loaded.device)

    def clear(self) -> None:
        """Forget the conversation and free its cache."""
        for kept in (self._turns, self._answers, self._waiting):
            kept.clear()
        self._read_again()

    def attach(self, image: Picture) -> None:
        """Add a picture to the next question.

        Args:
            image: see `as_pictures`.

        Raises:
            PrefixKVError: the model reads no images, or this one cannot be read.
        """
        self._waiting.extend(take_pictures(image, self.loaded, self.max_pixels, self._notify))

    def change_budget(
        self,
        budget: str | float | Budget | PrefixConfig,
        method: str | Method = DEFAULT_METHOD,
        codec: str | Codec = DEFAULT_CODEC,
    ) -> None:
        """Go on under another budget, method or codec: the next question reads the whole conversation again, in one go.

        Args:
            budget: as for a new conversation.
            method: name of a method; not used with a configuration.
            codec: name of a codec; likewise.

        Raises:
            OptionError, BudgetTooSmallError: unknown budget, method or codec, or too small; everything stays as it was.
            PrefixKVError: the configuration is for another model.
        """
        cache = make_cache(self.loaded.model, self.loaded.identity, budget, method, self._notify, codec)
        self._reader = Reader(self.loaded, cache, self._notify)
        self.config = budget if isinstance(budget, PrefixConfig) else None
        self._read_again()

    def instruct(self, system: str) -> None:
        """Set the instructions before the first turn: the next question reads the whole conversation again.

        Args:
            system: empty for none.

        Raises:
            PrefixKVError: the model's chat template has no place for them.
        """
        if not isinstance(system, str):
            raise OptionError(f"the instructions are {repr(system)[:200]}, which is no text: give a str")
        if system and not Prompt(self.loaded.processor, [Turn("")], system, self.template_args).shows_system():
            raise PrefixKVError(f"model {self.loaded.id!r} takes no system text: say it in a question")
        self.system = system
        self._read_again()

    def undo(self, attach: bool = True) -> Turn:
        """Take the newest turn back.

        The cache is what it was before that turn; beyond `UNDO_TURNS` turns, or where the budget has changed since, the
        next question reads the conversation again.

        Args:
            attach: whether its pictures belong to the next question then.

        Raises:
            PrefixKVError: there is no turn.
        """
        if not self._turns:
            raise PrefixKVError("there is no turn to take back: ask something first")
        turn = self._turns.pop()
        self._answers.pop()
        waiting = [*(turn.images if attach else ()), *self._waiting]
        if self._earlier:
            self.resume(self._earlier.pop())
        else:
            self._read_again()
        self._waiting = waiting
        return turn

    def state(self) -> ConversationState:
        """Everything at this moment, the cache copied to host memory."""
        turns, answers, reading = tuple(self._turns), tuple(self._answers), self.reading.mark()
        cache = CacheSnapshot.take(self.cache.row)
        return ConversationState(self.system, turns, answers, self.waiting, reading, cache, self.template_args)

    def resume(self, state: ConversationState) -> None:
        """Go back to a state of a conversation with the same model, budget and method."""
        self.system, self.template_args = state.system, dict(state.template_args)
        self._turns, self._answers = list(state.turns), list(state.answers)
        self._waiting, self._reader.reading = list(state.waiting), state.reading.restored()
        state.cache.restore(self.cache.row, self.loaded.device)

    def read(self) -> None:
        """Read as far as the last picture, of those that were asked about and those of the next question, now.

        Raises:
            PrefixKVError: there is no picture, or the model cannot read it; nothing was read then.
        """
        if not self._waiting and not any(turn.images for turn in self._turns):
            raise PrefixKVError("there is no picture to read: add one first")
        before = self.state()
        try:
            with memory_errors(self.cache, self.loaded.device):
                self._reader.read(self._prompt([*self._turns, Turn("", self.waiting)]))
        except BaseException:
            self.resume(before)
            raise

    def ask(
        self,
        prompt: str = "",
        images: Picture | Sequence[Picture] | None = None,
        parts: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generator[str, None, None]:
        """Ask and stream the answer.

        Args:
            prompt: the question.
            images: one or several that come before it, behind those that were attached; see `as_pictures`.
            parts: instead of both, texts and pictures in their order, each `{"text": ...}` or `{"image": ...}`.

        Yields:
            Pieces of the answer. Closing the iterator stops the answer and keeps what was said so far.

        Raises:
            OptionError: parts are given beside a prompt or images, or are none.
            PrefixKVError: the model reads no images, or cannot take this question.
            DeviceMemoryError: the device's memory is full; the conversation goes on without this question.
        """
        layout, is_kept = None, False
        if parts is not None:
            if prompt or images is not None:
                raise OptionError("parts hold the texts and the pictures: give either them, or a prompt and images")
            given = read_parts(parts)
            prompt, layout = given.prompt, (*(None for _ in self._waiting), *given.layout)
            images = [open_source(picture) if isinstance(picture, str) else picture for picture in given.pictures]
        pictures = take_pictures(images, self.loaded, self.max_pixels, self._notify)
        before, turn = self.state(), Turn(prompt, (*self._waiting, *pictures), layout=layout)
        self._turns.append(turn)
        self._waiting.clear()
        try:
            self._reader.keep_marks = self.keep_marks
            render, end = partial(self._prompt, self._turns), partial(self._end, turn)
            with memory_errors(self.cache, self.loaded.device):
                yield from self._reader.answer(render, self.sampling, end)
            is_kept = True
        except GeneratorExit:
            is_kept = turn.answer is not None
            raise
        finally:
            self._earlier.append(before) if is_kept else self.resume(before)
            give_back()

    def _prompt(self, turns: Sequence[Turn]) -> Prompt:
        return Prompt(self.loaded.processor, turns, self.system, self.template_args)

    def _end(self, turn: Turn, answer: Answer) -> None:
        turn.answer = answer.text
        self._answers.append(answer)

    def _read_again(self) -> None:
        """Free the cache: what comes next reads from the beginning, and no earlier cache can come back."""
        self._reader.restart()
        self._earlier.clear()
