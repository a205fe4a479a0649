"""Places of a batch as an index into its tensors."""

from __future__ import annotations

import functools

import torch

from prefixkv.kernels.sending import sent


@functools.lru_cache(maxsize=256)
def place_index(places: tuple[int, ...], device: torch.device) -> slice | torch.Tensor:
    """An index for these places, made once for as long as the same rows step together.

    Args:
        places: ascending.
        device: of the tensors.

    Returns:
        A slice where the places are the first ones, else (rows,), int64, on the device, for which the host does not
        wait: whenever one of many rows has left there are other places.
    """
    if places == tuple(range(len(places))):
        return slice(0, len(places))
    return sent(torch.tensor(places), device)
