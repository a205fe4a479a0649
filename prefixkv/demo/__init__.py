"""The bundled demo model: a small LLaVA that this project trained on pictures that it draws itself.

It answers questions about such pictures (see `prefixkv.demo.questions`) and knows nothing else.
Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path

from prefixkv.errors import PrefixKVError

__all__ = ["SCENE_SEED", "SHAPES", "scene_path", "weights_path"]

# The bundled picture is the scene of this seed.
SCENE_SEED = 8

SHAPES = "shapes"
"""The kind of drawn picture that is no document."""

_FOLDER = Path(__file__).resolve().parent


def weights_path() -> Path:
    """The folder of the bundled model, for `from_pretrained`.

    Raises:
        PrefixKVError: The installation lacks the weights.
    """
    folder = _FOLDER / "weights"
    if not (folder / "config.json").is_file():
        raise PrefixKVError(
            f"the demo model is missing from this installation: no config.json in {folder}; reinstall prefixkv"
        )
    return folder


def scene_path() -> Path:
    """The bundled picture that the demo model can be asked about.

    Raises:
        PrefixKVError: The installation lacks the picture.
    """
    path = _FOLDER / "scene.png"
    if not path.is_file():
        raise PrefixKVError(f"the demo picture is missing from this installation: {path}; reinstall prefixkv")
    return path


def profile_path() -> Path:
    """The bundled model's profile, with the look-ahead queries beside it.

    Raises:
        PrefixKVError: The installation lacks it.
    """
    path = _FOLDER / "profile.json"
    if not path.is_file():
        raise PrefixKVError(f"the demo model's profile is missing from this installation: {path}; reinstall prefixkv")
    return path
