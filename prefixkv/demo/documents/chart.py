"""Bar and line charts: three to five whole numbers up to ten, written at their marks or read off an axis."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.demo.documents.page import Mark, Page
from prefixkv.demo.documents.wordings import phrase
from prefixkv.demo.phrasing import Asked, Chooser

_LABELS = (
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    ("Ada", "Ben", "Eva", "Kim", "Leo", "Tom"),
    ("A", "B", "C", "D", "E", "F"),
    ("Q1", "Q2", "Q3", "Q4"),
    ("2021", "2022", "2023", "2024", "2025"),
    ("Tea", "Ham", "Jam", "Oil", "Salt", "Rice"),
)
_TITLES = ("Sales", "Visitors", "Rain", "Orders", "Goals", "Letters", "Trains")
_COLOURS = ((60, 110, 190), (200, 80, 60), (70, 150, 90), (220, 150, 50), (120, 90, 170), (110, 110, 110))
_AXIS_TOP = 10


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: its heading.
        labels: of the values, all different.
        values: whole numbers, all different.
        is_line: points joined by a line, else bars.
        has_axis: values are read off an axis up to ten, else they are written at the marks.
    """

    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    is_line: bool
    has_axis: bool

    def ask(self, kind: str, choose: Chooser) -> Asked | None:
        """A question of a kind, or None where the kind has none for charts."""
        one, other = choose.shuffled(range(len(self.labels)))[:2]
        label, second = self.labels[one], self.labels[other]
        value, least = self.values[one], self.values[other]
        if kind == "value":
            return phrase(choose, "bar", noun=label), str(value), ()
        if kind == "which":
            return phrase(choose, "which_bar", noun=str(value)), label, ()
        if kind == "tally":
            return phrase(choose, "bars"), str(len(self.labels)), ()
        if kind == "yes_no":
            return phrase(choose, "is_larger", noun=label, other=second), "yes" if value > least else "no", ()
        if kind == "compare":
            if choose.chance(0.5):
                return phrase(choose, "largest_bar"), self.labels[self.values.index(max(self.values))], ()
            return phrase(choose, "larger_bar", noun=label, other=second), label if value > least else second, ()
        if kind == "difference":
            return phrase(choose, "difference", noun=label, other=second), str(abs(value - least)), ()
        if kind == "second":
            context = ((phrase(choose, "bar", noun=second), str(least)),)
            return phrase(choose, "next", noun=label), str(value), context
        return None

    def draw(self, page: Page, choose: Chooser) -> None:
        """Draw it over the whole page: line 0 is the title, 1 the values or the axis, 2 the labels."""
        pixels = int(min(page.width, page.height) * (60 + choose.below(20)) / 1000)
        left = page.width * 0.05 + (1.7 * pixels if self.has_axis else 0)
        right, top, bottom = page.width * 0.97, 3.2 * pixels, page.height - 1.8 * pixels
        page.write(self.title, (page.width - page.text_width(self.title, pixels)) / 2, 1.3 * pixels, pixels, 0)
        unit = (bottom - top) / (_AXIS_TOP if self.has_axis else max(self.values))
        if self.has_axis:
            for value in range(0, _AXIS_TOP + 1, 2):
                y = bottom - value * unit
                page.draw.line((left, y, right, y), fill=_between(page), width=1)
                text = str(value)
                x = left - 0.3 * pixels - page.text_width(text, pixels)
                page.write(text, x, y + 0.36 * pixels, pixels, 1)
        page.draw.line((left, bottom, right, bottom), fill=page.ink, width=2)
        step = (right - left) / len(self.labels)
        colour = choose.one(_COLOURS)
        points = [(left + (i + 0.5) * step, bottom - value * unit) for i, value in enumerate(self.values)]
        if self.is_line:
            page.draw.line(points, fill=colour, width=3)
        for index, ((x, y), label, value) in enumerate(zip(points, self.labels, self.values, strict=True)):
            page.marks.append(Mark(value, index, x, y))
            if self.is_line:
                page.draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour)
            else:
                page.draw.rectangle((x - 0.3 * step, y, x + 0.3 * step, bottom), fill=colour)
            if not self.has_axis:
                text = str(value)
                above = 0.6 * pixels if self.is_line else 0.3 * pixels
                page.write(text, x - page.text_width(text, pixels) / 2, y - above, pixels, 1)
            page.write(label, x - page.text_width(label, pixels) / 2, bottom + 1.1 * pixels, pixels, 2, 6 * index)


def _between(page: Page) -> tuple[int, int, int]:
    red, green, blue = ((2 * paper + ink) // 3 for paper, ink in zip(page.paper, page.ink, strict=True))
    return red, green, blue


def compose(choose: Chooser) -> Chart:
    """The content of a chart."""
    labels = choose.one(_LABELS)
    count = 3 + choose.below(min(len(labels), 5) - 2)
    has_axis = choose.chance(0.4)
    values = [1 + value for value in choose.shuffled(range(_AXIS_TOP))[:count]]
    return Chart(choose.one(_TITLES), labels[:count], tuple(values), choose.chance(0.4), has_axis)
