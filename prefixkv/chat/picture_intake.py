"""Pictures on their way into a conversation: read, within the limit of pixels, and of a kind that the model knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.images import Picture, as_pictures
from prefixkv.inputs.picture_size import scaled_down

if TYPE_CHECKING:
    from PIL.Image import Image

    from prefixkv.models.frontend import Frontend
    from prefixkv.models.loading import LoadedModel


def take_pictures(
    given: Picture | Sequence[Picture] | None,
    loaded: LoadedModel | Frontend,
    max_pixels: int | None,
    notify: Callable[[str], None],
    notify_strange: Callable[[str], None] | None = None,
) -> tuple[Image, ...]:
    """Pictures as the model's processor may have them.

    Args:
        given: see `as_pictures`.
        loaded: the model that will see them.
        max_pixels: a picture with more is scaled down to them; None for no limit.
        notify: called with one line for each that was larger, and where the demo model knows nothing of one.
        notify_strange: called instead where the demo model knows nothing of one; may raise.

    Returns:
        RGB.

    Raises:
        PrefixKVError: one cannot be read, or the model reads no images.
    """
    pictures = as_pictures(given)
    if pictures and not loaded.takes_images:
        raise PrefixKVError(f"model {loaded.id!r} reads no images: ask without one, or choose another model")
    if loaded.id == "demo":
        from prefixkv.demo.drawn import say_strange

        say_strange(pictures, notify_strange or notify)
    return scaled_down(pictures, max_pixels, notify)
