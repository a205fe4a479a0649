"""Which part of a model's picture tensors belongs to pictures that were not read yet.

Families pack pictures differently: one row for each, one for each patch, or one for each tile; or all of a text's
pictures in one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch


def unread_pictures(
    inputs: Mapping[str, torch.Tensor],
    read: int,
    pictures: int,
    inputs_of_read: Callable[[], Mapping[str, torch.Tensor]],
) -> dict[str, torch.Tensor] | None:
    """Leave away what belongs to the first pictures.

    Args:
        inputs: the picture tensors of a whole text.
        read: how many pictures were read, fewer than there are.
        pictures: how many there are.
        inputs_of_read: makes the picture tensors of those that were read, where their number of rows must be known.

    Returns:
        The same tensors for the other pictures; None where they cannot be told apart.
    """
    if read == 0:
        return dict(inputs)
    rest = {}
    earlier: Mapping[str, torch.Tensor] | None = None
    for name, value in inputs.items():
        if len(value) == pictures:
            rest[name] = value[read:]
        elif name == "pixel_values" and "image_grid_thw" in inputs:
            rest[name] = value[int(inputs["image_grid_thw"][:read].prod(dim=-1).sum()) :]
        else:
            earlier = inputs_of_read() if earlier is None else earlier
            axes = [axis for axis, size in enumerate(earlier[name].shape) if size != value.shape[axis]]
            if len(axes) != 1:
                return None
            start = earlier[name].shape[axes[0]]
            rest[name] = value.narrow(axes[0], start, value.shape[axes[0]] - start)
    return rest
