"""What Pixtral's processor does, on its real image processor: transformers' own class needs torchvision."""

from __future__ import annotations

from typing import Any

import transformers


class PixtralProcessor:
    """Puts [IMG] for every patch of a picture, [IMG_BREAK] between rows and [IMG_END] behind the last."""

    def __init__(self, tokenizer: Any, patch_size: int, spatial_merge_size: int, chat_template: str) -> None:
        size = {"height": patch_size, "width": patch_size}
        self.image_processor = transformers.PixtralImageProcessor(size={"longest_edge": 32}, patch_size=size)
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self._token_pixels = patch_size * spatial_merge_size
        self._patch = {"height": self._token_pixels, "width": self._token_pixels}

    def __call__(self, text: list[str], images: Any = None, **options: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        if images is not None:
            inputs = dict(self.image_processor(images, patch_size=self._patch, return_tensors="pt"))
            sizes = iter(inputs["image_sizes"].tolist())
            text = [
                "".join(part if part != "[IMG]" else self._tokens(*next(sizes)) for part in _split(each))
                for each in text
            ]
        return dict(self.tokenizer(text, **options)) | inputs

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, **({"chat_template": self.chat_template} | options))

    def _tokens(self, height: int, width: int) -> str:
        row = "[IMG]" * (width // self._token_pixels)
        return "[IMG_BREAK]".join([row] * (height // self._token_pixels)) + "[IMG_END]"


def _split(text: str) -> list[str]:
    first, *others = text.split("[IMG]")
    return [first, *(part for other in others for part in ("[IMG]", other))]
