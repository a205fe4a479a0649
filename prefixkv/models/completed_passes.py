"""Models of transformers whose whole does not fit their text part, as far as that can be mended around a pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def completed_passes(model: Any) -> Iterator[None]:
    """Have two models run whose whole does not fit their text part.

    Llama 4 with pictures asks what its text part returns for `image_outputs`, which 5.24 forgot there. Kosmos-2 asks
    for a picture in every pass, where its own `generate` leaves the whole model out.

    Args:
        model: of any family; nothing is done to others.
    """
    name = type(model).__name__
    if name == "Llama4ForConditionalGeneration":
        handle = model.language_model.register_forward_hook(_without_image_outputs)
    elif name == "Kosmos2ForConditionalGeneration":
        handle = model.register_forward_pre_hook(_with_empty_picture, with_kwargs=True)
    else:
        yield
        return
    try:
        yield
    finally:
        handle.remove()


def _without_image_outputs(part: Any, args: Any, output: Any) -> None:
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None


def _with_empty_picture(model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Arguments with a picture of no tokens, where there is none."""
    if args or any(kwargs.get(name) is not None for name in ("pixel_values", "image_embeds", "inputs_embeds")):
        return None
    ids, embedding = kwargs["input_ids"], model.get_input_embeddings().weight
    empty = embedding.new_zeros(ids.shape[0], 0, embedding.shape[1])
    return args, kwargs | {"image_embeds": empty, "image_embeds_position_mask": ids.new_zeros(ids.shape)}
