"""Rich's console, of which no text reaches a terminal as a control sequence; loaded where something is shown."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from prefixkv_cli.escaping import visible


class SafeConsole(Console):
    """A console that shows the control characters of a text; Rich's own hands them on as they are."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Make segments; those of Rich's own control are left alone."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
