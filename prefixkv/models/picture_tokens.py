"""How many tokens hold a picture: known from the configuration where all pictures take the same, else counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.decoder_defaults import TEXT_TYPES
from prefixkv.models.download import Part, bring
from prefixkv.models.names import source_of
from prefixkv.models.pretrained import read_part, reading
from prefixkv.transformers_compat import picture_token_ids

FIXED_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Vision towers that see a picture of any size as one grid of patches, with the tokens that they put before it."""


def reads_pictures(config: Any) -> bool:
    """Whether a model reads pictures.

    Args:
        config: of the whole model.
    """
    return config.model_type in TEXT_TYPES or getattr(config, "vision_config", None) is not None


def fixed_picture_tokens(config: Any) -> int | None:
    """Tokens of a picture, in models where its size does not matter.

    Args:
        config: of the whole model, of transformers or a `ConfigFile`.

    Returns:
        None where they depend on the size, or where the configuration does not say.
    """
    vision = getattr(config, "vision_config", None)
    read = vision.get if isinstance(vision, dict) else lambda name: getattr(vision, name, None)
    tower, size, patch = read("model_type"), read("image_size"), read("patch_size")
    if config.model_type != "llava" or tower not in FIXED_TOWERS or type(size) is not int or type(patch) is not int:
        return None
    is_whole = getattr(config, "vision_feature_select_strategy", "default") == "full"
    before = FIXED_TOWERS[tower] if is_whole else FIXED_TOWERS[tower] - 1
    return (size // patch) ** 2 + before


def counted_picture_tokens(
    name: str,
    config: Any,
    sizes: Sequence[tuple[int, int]],
    notify: Callable[[str], None],
    trust_remote_code: bool = False,
) -> dict[tuple[int, int], int]:
    """Tokens that a picture of each size adds to a prompt, counted on the processor's own output.

    Args:
        name: of the model.
        config: of the whole model.
        sizes: in pixels, width and height.
        notify: called with one line where the processor cannot be had.
        trust_remote_code: whether Python that comes with the model's files may run.

    Returns:
        Nothing where it cannot be had.
    """
    try:
        bring(source_of(name), Part.PROCESSOR, trust_remote_code)
    except PrefixKVError as error:
        notify(f"tokens of a picture are not known: {error}")
        return {}
    import transformers
    from PIL import Image

    from prefixkv.inputs.prompts import Prompt, Turn

    tokens = picture_token_ids(config)
    try:
        with reading(f"the processor of {name!r}"):
            processor = read_part(transformers.AutoProcessor, source_of(name), trust_remote_code)
        counts = {}
        for size in sizes:
            prompt = Prompt(processor, [Turn("What is this?", (Image.new("RGB", size, "grey"),))])
            counts[size] = sum(token in tokens for token in prompt.inputs["input_ids"].flatten().tolist())
    # Whatever a processor that comes from outside raises, the other figures are known.
    except Exception as error:
        notify(f"tokens of a picture are not known: {' '.join(str(error).split())[:200]}")
        return {}
    return counts
