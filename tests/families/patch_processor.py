"""What a family's processor does whose own image processor needs torchvision: pictures to tensors, marks to tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

Pictures = Callable[[Sequence[Image.Image]], tuple[dict[str, torch.Tensor], list[int]]]
"""Makes a model's tensors of some pictures, and says how many tokens each of them takes."""
PATCH = 4
MERGE = 2
SIDE = 16


class PatchProcessor:
    """Puts as many tokens for a picture as its model makes of it, between two marks."""

    def __init__(self, tokenizer: Any, pictures: Pictures, marks: tuple[str, str, str], chat_template: str) -> None:
        """Take the parts.

        Args:
            tokenizer: knows the marks.
            pictures: makes the tensors.
            marks: what begins a picture, stands for a part of it, and ends it.
            chat_template: puts the second mark once for a picture.
        """
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self._pictures, self._marks = pictures, marks

    def __call__(self, text: list[str], images: Any = None, **options: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        begin, part, end = self._marks
        if images is not None:
            inputs, counts = self._pictures(images)
            pieces = text[0].split(part)
            told = [f"{begin} {' '.join([part] * count)} {end}" for count in counts]
            text = ["".join(piece + tokens for piece, tokens in zip(pieces, [*told, ""], strict=True))]
        return dict(self.tokenizer(text, **options)) | inputs

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, **({"chat_template": self.chat_template} | options))


def _pixels(picture: Image.Image, width: int, height: int) -> torch.Tensor:
    """Colours from -1 to 1, (3, height, width), float32."""
    scaled = np.asarray(picture.convert("RGB").resize((width, height)), dtype=np.float32)
    return torch.from_numpy(scaled / 127.5 - 1).permute(2, 0, 1)


def _grid(picture: Image.Image) -> tuple[torch.Tensor, int, int]:
    """Patches of a picture, row by row, (patches, 3, PATCH, PATCH), with the numbers of rows and columns."""
    step = PATCH * MERGE
    rows, columns = (MERGE * max(1, round(size / step / 2)) for size in (picture.height, picture.width))
    pixels = _pixels(picture, columns * PATCH, rows * PATCH)
    patches = pixels.reshape(3, rows, PATCH, columns, PATCH).permute(1, 3, 0, 2, 4)
    return patches.reshape(rows * columns, 3, PATCH, PATCH), rows, columns


def kimi_pictures(pictures: Sequence[Image.Image]) -> tuple[dict[str, torch.Tensor], list[int]]:
    """All patches in a row, and the grid of each picture."""
    grids = [_grid(picture) for picture in pictures]
    tensors = {
        "pixel_values": torch.cat([patches for patches, _, _ in grids]),
        "image_grid_thw": torch.tensor([[1, rows, columns] for _, rows, columns in grids]),
    }
    return tensors, [rows * columns // MERGE**2 for _, rows, columns in grids]


def lfm_pictures(pictures: Sequence[Image.Image]) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The patches of each picture, padded to so many that hold any of the tests' pictures."""
    grids, most = [_grid(picture) for picture in pictures], 64
    values = torch.zeros(len(grids), most, 3 * PATCH**2)
    mask = torch.zeros(len(grids), most, dtype=torch.int64)
    for index, (patches, rows, columns) in enumerate(grids):
        values[index, : rows * columns] = patches.permute(0, 2, 3, 1).flatten(1)
        mask[index, : rows * columns] = 1
    shapes = torch.tensor([[rows, columns] for _, rows, columns in grids])
    tensors = {"pixel_values": values, "spatial_shapes": shapes, "pixel_attention_mask": mask}
    return tensors, [rows * columns // MERGE**2 for _, rows, columns in grids]


def llama4_pictures(pictures: Sequence[Image.Image]) -> tuple[dict[str, torch.Tensor], list[int]]:
    """One tile for each picture."""
    values = torch.stack([_pixels(picture, SIDE, SIDE) for picture in pictures])
    return {"pixel_values": values}, [(SIDE // PATCH) ** 2 // MERGE**2] * len(pictures)
