"""Text in rows and columns: the greatest size that fits a page is found, then every cell is set."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.demo.documents.faces import width
from prefixkv.demo.documents.page import Page
from prefixkv.demo.phrasing import Chooser

_LINE_HEIGHT = 1.3
_GAP = 0.7
"""Between two columns, in ems."""


@dataclass(frozen=True)
class Sheet:
    """Rows of cells, top to bottom.

    Attributes:
        rows: the cells of every row; a row of one cell goes over all columns.
        ruled: rows that a line is drawn above.
        is_centred: rows of one cell stand in the middle, else at the left.
        is_right: columns after the first are set flush right, else flush left.
    """

    rows: tuple[tuple[str, ...], ...]
    ruled: tuple[int, ...] = ()
    is_centred: bool = False
    is_right: bool = True

    @property
    def text(self) -> str:
        """The whole text: cells are parted by a space, rows by a line break."""
        return "\n".join(" ".join(row) for row in self.rows)


def set_rows(page: Page, sheet: Sheet, choose: Chooser) -> None:
    """Write the rows on the page, as large as they fit or up to a fifth smaller, anywhere there is room."""
    count = max(len(row) for row in sheet.rows)
    split = [row for row in sheet.rows if len(row) == count and count > 1]
    columns = [max(width(page.face, row[column]) for row in split) for column in range(count)] if split else []
    alone = max((width(page.face, row[0]) for row in sheet.rows if len(row) == 1), default=0.0)
    ems = max(alone, sum(columns) + _GAP * max(0, len(columns) - 1))
    fits = min(0.93 * page.width / ems, 0.93 * page.height / (_LINE_HEIGHT * len(sheet.rows)), page.height / 7)
    pixels = int(fits * (80 + choose.below(21)) / 100)
    wide = ems * pixels
    if columns and choose.chance(0.6):
        # Columns drift apart up to the page's edges.
        wide += (0.93 * page.width - wide) * choose.below(101) / 100
    high = _LINE_HEIGHT * pixels * len(sheet.rows)
    left = 0.03 * page.width + (0.94 * page.width - wide) * choose.below(101) / 100
    top = 0.02 * page.height + (0.96 * page.height - high) * choose.below(101) / 100
    apart = (wide - sum(columns) * pixels) / max(1, len(columns) - 1) if columns else 0.0
    for line, row in enumerate(sheet.rows):
        baseline = top + _LINE_HEIGHT * pixels * (line + 0.78)
        if line in sheet.ruled:
            y = top + _LINE_HEIGHT * pixels * line + 0.02 * pixels
            page.draw.line((left, y, left + wide, y), fill=page.ink, width=max(1, pixels // 16))
        if len(row) == 1:
            shift = (wide - page.text_width(row[0], pixels)) / 2 if sheet.is_centred else 0.0
            page.write(row[0], left + shift, baseline, pixels, line)
            continue
        x, place = left, 0
        for column, cell in enumerate(row):
            room = columns[column] * pixels
            shift = room - page.text_width(cell, pixels) if column and sheet.is_right else 0.0
            page.write(cell, x + shift, baseline, pixels, line, place)
            x += room + apart
            place += len(cell) + 1
