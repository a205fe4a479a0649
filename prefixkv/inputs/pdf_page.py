"""Pages of PDF files as pictures; drawn by pypdfium2, which comes with `prefixkv[formats]`. Knows nothing of torch."""

from __future__ import annotations

import math
import threading
from pathlib import Path

from PIL import Image

from prefixkv.errors import PrefixKVError

SIGNATURE = b"%PDF-"
DOTS_PER_INCH = 150
"""Of what is drawn: letters of 8 points are some 17 pixels high."""
MOST_PIXELS = 25_000_000
"""Of a page that is larger than A2, fewer dots an inch are drawn."""

# PDFium has one state for all files, and may be used by one thread at a time.
_pdfium = threading.Lock()


def draw_page(source: Path | bytes, name: str, page: int | None) -> Image.Image:
    """A page as a picture, RGB.

    Args:
        source: a file, or its content.
        name: what the user calls it.
        page: its number, from 1 on; None for the only one.

    Raises:
        PrefixKVError: pypdfium2 is not installed, the page is not there or was not named, or the file cannot be read.
    """
    try:
        import pypdfium2
    except ImportError:
        raise PrefixKVError(
            f"image {name!r} is a PDF file: install `prefixkv[formats]` to read it, or save the page as a picture"
        ) from None
    with _pdfium:
        try:
            with pypdfium2.PdfDocument(source) as document:
                number = _page_number(len(document), name, page)
                sheet = document[number - 1]
                width, height = sheet.get_size()
                scale = min(DOTS_PER_INCH / 72, math.sqrt(MOST_PIXELS / max(1.0, width * height)))
                image: Image.Image = sheet.render(scale=scale).to_pil().convert("RGB")
                return image
        except pypdfium2.PdfiumError as error:
            reason = " ".join(str(error).split())
            raise PrefixKVError(f"PDF file {name!r} cannot be read ({reason}): save the page as a picture") from None


def _page_number(pages: int, name: str, page: int | None) -> int:
    if page is None and pages != 1:
        raise PrefixKVError(f"PDF file {name!r} has {pages} pages: say which, as in {name}#page=1")
    if page is not None and not 1 <= page <= pages:
        raise PrefixKVError(f"PDF file {name!r} has no page {page}: it has {pages}")
    return page or 1
