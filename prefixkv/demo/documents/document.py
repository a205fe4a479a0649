"""A document: its content, composed from a seed, and its picture with every letter's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from prefixkv.demo.documents import DOCUMENT_KINDS, SOFTWARE, SOFTWARE_FIELD, chart, form, receipt, table
from prefixkv.demo.documents.chart import Chart
from prefixkv.demo.documents.form import Form
from prefixkv.demo.documents.lines import Lines, compose_note, compose_sign
from prefixkv.demo.documents.page import Letter, Mark, Page
from prefixkv.demo.documents.receipt import Receipt
from prefixkv.demo.documents.rows import set_rows
from prefixkv.demo.documents.table import Table
from prefixkv.demo.phrasing import Chooser

Content = Receipt | Form | Table | Chart | Lines

_CONTENT_STREAM, _DRAWING_STREAM = 7011, 7012
_COMPOSERS: dict[str, Callable[[Chooser], Content]] = {
    "receipt": receipt.compose,
    "form": form.compose,
    "table": table.compose,
    "chart": chart.compose,
    "sign": compose_sign,
    "note": compose_note,
}


@dataclass(frozen=True, eq=False)
class Document:
    """A picture of a document.

    Attributes:
        seed: it was composed and drawn from.
        kind: one of `DOCUMENT_KINDS`.
        content: what it says.
        image: RGB, of some size between 300 x 264 and 520 x 583 pixels.
        letters: its characters and their places, in the order of drawing.
        marks: a chart's values and their places.
    """

    seed: int
    kind: str
    content: Content
    image: Image.Image
    letters: tuple[Letter, ...]
    marks: tuple[Mark, ...]


def compose_content(seed: int, kind: str | None = None) -> tuple[str, Content]:
    """What the document of a seed says.

    Args:
        seed: any non-negative integer.
        kind: one of `DOCUMENT_KINDS`; chosen by the seed where None.

    Returns:
        The kind and the content.
    """
    kind = Chooser([_CONTENT_STREAM, seed]).one(DOCUMENT_KINDS) if kind is None else kind
    return kind, _COMPOSERS[kind](Chooser([_CONTENT_STREAM, seed, DOCUMENT_KINDS.index(kind)]))


def draw_document(seed: int, kind: str | None = None) -> Document:
    """Compose and draw the document of a seed.

    Args:
        seed: any non-negative integer; training has seeds from `TRAINING_SEED_START` on.
        kind: one of `DOCUMENT_KINDS`; chosen by the seed where None.
    """
    kind, content = compose_content(seed, kind)
    choose = Chooser([_DRAWING_STREAM, seed])
    page = Page(choose, is_loud=kind == "sign")
    if isinstance(content, Chart):
        content.draw(page, choose)
    else:
        set_rows(page, content.sheet, choose)
    image, letters, marks = page.finish(choose)
    image.info = {SOFTWARE_FIELD: SOFTWARE}
    return Document(seed, kind, content, image, letters, marks)
