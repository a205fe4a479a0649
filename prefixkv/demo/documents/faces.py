"""The faces that documents are set in: those that matplotlib and Pillow carry, under free licences.

DejaVu (Bitstream Vera's licence) and STIX (SIL Open Font License) come with matplotlib, Aileron (CC0) with Pillow.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from prefixkv.errors import PrefixKVError

AILERON = "Aileron"
FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
    AILERON,
)
"""File names without their ending, and Pillow's own face."""

_MEASURED_PIXELS = 100


@lru_cache(maxsize=512)
def load_face(face: str, pixels: int) -> ImageFont.FreeTypeFont:
    """A face in one size.

    Args:
        face: one of `FACES`.
        pixels: size of the em.

    Raises:
        PrefixKVError: matplotlib's fonts are missing from the installation.
    """
    if face == AILERON:
        font = ImageFont.load_default(pixels)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise PrefixKVError("Pillow was built without FreeType, so no document can be drawn: reinstall pillow")
        return font
    path = _folder() / f"{face}.ttf"
    # Pillow would look for a font of this name elsewhere on the machine, and another version has other widths.
    if not path.is_file():
        raise PrefixKVError(f"matplotlib's font {face}.ttf is missing: reinstall matplotlib")
    return ImageFont.truetype(str(path), pixels, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def advance(face: str, character: str) -> float:
    """Width of a character in ems."""
    return load_face(face, _MEASURED_PIXELS).getlength(character) / _MEASURED_PIXELS


def width(face: str, text: str) -> float:
    """Width of a text in ems."""
    return sum(advance(face, character) for character in text)


@lru_cache(maxsize=1)
def _folder() -> Path:
    # Found without an import, which would take half a second.
    spec = find_spec("matplotlib")
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise PrefixKVError("matplotlib is missing, whose fonts documents are drawn in: reinstall prefixkv")
    return Path(next(iter(places))) / "mpl-data" / "fonts" / "ttf"
