"""How a conversation begins: with the prompt, while its model is still being loaded."""

from __future__ import annotations

from collections.abc import Callable

from prefixkv_cli import output
from prefixkv_cli.background import Background
from prefixkv_cli.dialogue.line_editor import LineEditor
from prefixkv_cli.dialogue.talk import Talk
from prefixkv_cli.escaping import visible
from prefixkv_cli.waiting_sign import end_sign, show_sign


class Beginning:
    """A conversation that is there, or that will be."""

    def __init__(self, make: Callable[[], Talk], model: str, editor: LineEditor, behind: bool) -> None:
        """Begin to load.

        Args:
            make: loads the model and makes the conversation.
            model: what is loaded, as the user calls it.
            editor: reads lines meanwhile.
            behind: whether that is done in a thread of its own; else the conversation is there afterwards.

        Raises:
            PrefixKVError: it cannot be made, and not behind.
        """
        self._model, self._editor = visible(model), editor
        self._talk: Talk | None = None
        self._status = ""
        if behind:
            self._background = Background(make, lambda: editor.interrupt(self._announce))
        else:
            self._begin(make())

    @property
    def started(self) -> Talk | None:
        """The conversation; None while it has not begun."""
        return self._talk

    def talk(self) -> Talk:
        """The conversation, waited for with a sign; its header is shown where it was not yet.

        Raises:
            PrefixKVError: it cannot be made; other errors likewise.
            KeyboardInterrupt: Ctrl-C while waiting; the model is loaded further.
        """
        if self._talk is None:
            if not (self._background.is_done or output.is_quiet()):
                show_sign(f"loading {self._model}")
            try:
                talk = self._background.take()
            finally:
                end_sign()
            self._begin(talk)
            return talk
        return self._talk

    def look(self) -> None:
        """Take note of how the conversation stands, for the line below the next prompt."""
        if self._talk is not None:
            self._status = self._talk.status()

    def status(self) -> str:
        """The line below the prompt: how the conversation stood, or that its model is being loaded."""
        if self._talk is not None:
            return self._status
        return "" if output.is_quiet() else f"loading {self._model} ..."

    def _begin(self, talk: Talk) -> None:
        talk.compose = self._editor.compose
        self._talk = talk
        self.look()
        talk.show_header()

    def _announce(self) -> None:
        """Show the header above the line that is being edited; where there is an error, the line ends with it."""
        try:
            self.talk()
        # Whatever loading a model may raise is for whoever ends the program to say.
        except Exception as error:
            self._editor.end(error)
