"""Mutated pictures of every format that is opened."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, features

from prefixkv.inputs.images import decode_image, open_image
from tests.fuzz.mutation import changed_bytes

FORMS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "P", "1", "I;16")),
    *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
    ("JPEG", "RGB", {"progressive": True}),
    *(("WEBP", "RGB", {"lossless": whole}) for whole in (True, False)),
    *(("GIF", "P", {}), ("BMP", "RGB", {}), ("PPM", "RGB", {}), ("PPM", "L", {})),
    *(
        ("TIFF", mode, {"compression": kind})
        for mode in ("RGB", "L", "F")
        for kind in ("raw", "tiff_lzw", "tiff_deflate")
    ),
    ("AVIF", "RGB", {}),
)


def mutated_pictures(folder: Path, random: Random) -> Iterator[Callable[[], Any]]:
    """Cases without end: half of them from memory, half from a file."""
    originals = list(_originals())
    path = folder / "picture"
    while True:
        data = changed_bytes(random.choice(originals), random)
        if random.random() < 0.5:
            path.write_bytes(data)
            yield lambda: open_image(path)
        else:
            yield lambda data=data: decode_image(data, "given")


def _originals() -> Iterator[bytes]:
    pixels = np.random.Generator(np.random.PCG64(1)).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    whole = Image.fromarray(pixels)
    for form, mode, options in FORMS:
        if form == "AVIF" and not features.check("avif"):
            continue
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else whole.convert(mode)
        data = io.BytesIO()
        image.save(data, format=form, **options)
        yield data.getvalue()
