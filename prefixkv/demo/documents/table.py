"""Tables: three to seven people with two or three values each."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.demo.documents.rows import Sheet
from prefixkv.demo.documents.wordings import phrase
from prefixkv.demo.documents.words import CITIES, PEOPLE, distinct
from prefixkv.demo.phrasing import Asked, Chooser

_NUMBERS = {
    "Age": (18, 80),
    "Score": (10, 100),
    "Votes": (100, 1000),
    "Goals": (1, 40),
    "Miles": (5, 400),
    "Hours": (1, 60),
}
_PLACE = "City"


@dataclass(frozen=True)
class Table:
    """What a table says.

    Attributes:
        headings: of the columns after the first, which is headed `Name`.
        names: of the rows, all different.
        columns: the cells of each column after the first, all different in a column.
        is_right: whether numbers are set flush right.
    """

    headings: tuple[str, ...]
    names: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    is_right: bool

    @property
    def sheet(self) -> Sheet:
        """Its rows."""
        body = tuple((name, *cells) for name, *cells in zip(self.names, *self.columns, strict=True))
        return Sheet((("Name", *self.headings), *body), ruled=(1,), is_right=self.is_right)

    def ask(self, kind: str, choose: Chooser) -> Asked | None:
        """A question of a kind, or None where the kind has none for tables."""
        column = choose.below(len(self.headings))
        heading, cells = self.headings[column].lower(), self.columns[column]
        one, other = choose.shuffled(range(len(self.names)))[:2]
        name, second = self.names[one], self.names[other]
        if kind == "value":
            return phrase(choose, "cell", noun=name, other=heading), cells[one], ()
        if kind == "which":
            return phrase(choose, "row_with", noun=cells[one], other=heading), name, ()
        if kind == "tally":
            return phrase(choose, "rows"), str(len(self.names)), ()
        if kind == "yes_no":
            if choose.chance(0.5):
                return phrase(choose, "in_table", noun=name), "yes", ()
            absent = distinct(choose, PEOPLE, 1)[0]
            return None if absent in self.names else (phrase(choose, "in_table", noun=absent), "no", ())
        if kind == "compare" and self.headings[column] != _PLACE:
            numbers = [int(cell) for cell in cells]
            if choose.chance(0.6):
                return phrase(choose, "largest_row", noun=heading), self.names[numbers.index(max(numbers))], ()
            more = name if numbers[one] > numbers[other] else second
            return phrase(choose, "more_row", noun=name, other=second, third=heading), more, ()
        if kind == "second":
            context = ((phrase(choose, "cell", noun=second, other=heading), cells[other]),)
            return phrase(choose, "next", noun=name), cells[one], context
        return None


def compose(choose: Chooser) -> Table:
    """The content of a table."""
    count = 3 + choose.below(5)
    headings = choose.shuffled(tuple(_NUMBERS))[: 1 + choose.below(2)]
    columns = []
    for heading in headings:
        low, high = _NUMBERS[heading]
        numbers: list[str] = []
        while len(numbers) < count:
            number = str(low + choose.below(high - low))
            if number not in numbers:
                numbers.append(number)
        columns.append(tuple(numbers))
    if len(headings) == 1 and choose.chance(0.6):
        headings.append(_PLACE)
        columns.append(tuple(distinct(choose, CITIES, count)))
    return Table(tuple(headings), tuple(distinct(choose, PEOPLE, count)), tuple(columns), choose.chance(0.5))
