"""Lines made into prompts ahead of need: pictures are decoded and processed by threads while the model computes."""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prefixkv.batch.lines import Line
from prefixkv.errors import PrefixKVError, reason
from prefixkv.inputs.picture_size import within_pixels
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.loading import LoadedModel

THREADS = 4


class Preparation:
    """Opens the lines of a batch.

    Attributes:
        scaled: pictures that were scaled down so far.
        strange: names of pictures so far that the demo model, where it is the model, knows nothing of.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        folder: Path,
        template_args: Mapping[str, Any] | None = None,
        max_pixels: int | None = None,
        system: str = "",
    ) -> None:
        """Prepare for one model.

        Args:
            loaded: the model.
            folder: what relative paths of pictures start from.
            template_args: values for the model's chat template, by name.
            max_pixels: a picture with more is scaled down to them; None for no limit.
            system: instructions before each question, where a line does not say its own.
        """
        self._loaded, self._folder, self._max_pixels = loaded, folder, max_pixels
        self._template_args, self._system = template_args or {}, system
        self.scaled = 0
        self.strange: list[str] = []
        # A tokenizer of transformers cannot be used by two threads at the same time.
        self._processor = threading.Lock()

    def prompts(self, lines: Iterable[Line], ahead: int) -> Generator[tuple[Line, Prompt | PrefixKVError], None, None]:
        """The lines in their order, each with its prompt or with why it cannot be asked.

        Args:
            lines: of the batch file.
            ahead: lines that are opened before they are asked for.

        Yields:
            As many pairs as there are lines.
        """
        with ThreadPoolExecutor(THREADS, "prefixkv-pictures") as threads:
            waiting: deque[tuple[Line, Future[Prompt | PrefixKVError]]] = deque()
            try:
                for line in lines:
                    waiting.append((line, threads.submit(self._opened, line)))
                    if len(waiting) > ahead:
                        first, prompt = waiting.popleft()
                        yield first, prompt.result()
                while waiting:
                    first, prompt = waiting.popleft()
                    yield first, prompt.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _opened(self, line: Line) -> Prompt | PrefixKVError:
        try:
            return self._prompt(line)
        except PrefixKVError as error:
            return error
        except Exception as error:  # one odd line does no harm to the others
            return PrefixKVError(reason(error))

    def _prompt(self, line: Line) -> Prompt:
        """The line as model inputs.

        Raises:
            PrefixKVError: it cannot be asked; says why.
        """
        loaded = self._loaded
        if line.error is not None:
            raise PrefixKVError(line.error)
        if line.sources and not loaded.takes_images:
            raise PrefixKVError(f"model {loaded.id!r} reads no images: leave image away, or choose another model")
        if loaded.id == "demo" and not line.sources:
            raise PrefixKVError("the demo model answers questions about a picture: give an image")
        opened = line.pictures(self._folder)
        limit = self._max_pixels if line.max_pixels is None else line.max_pixels
        pictures = tuple(within_pixels(picture, limit) for picture in opened)
        system = line.system or self._system
        strange: list[str] = []
        if loaded.id == "demo":
            from prefixkv.demo.drawn import strange_pictures

            strange = strange_pictures(opened)
        with self._processor:
            self.strange += strange
            self.scaled += sum(map(operator.is_not, opened, pictures))
            turn = Turn(line.prompt, pictures, layout=line.layout)
            prompt = Prompt(loaded.processor, [turn], system, {**self._template_args, **(line.template_args or {})})
            if system and not prompt.shows_system():
                raise PrefixKVError(f"model {loaded.id!r} takes no system text: say it in the prompt")
            return prompt
