"""Packing: key or value vectors in 8, 4 or 2 bits an element, and back.

A vector is rotated by a Hadamard matrix, which spreads an outlier over all elements, and rounded to equal steps between
-2^(bits-1) and 2^(bits-1) (QuaRot, arXiv 2404.00456, rotates for the same reason; the step for 4 and 2 bits is the best
one for a normal distribution, then fitted to the vector by least squares). A packed vector is one row of bytes, so it
is gathered, written and saved like any other: its codes, then its step as a float16.
"""

from __future__ import annotations

import functools

import torch

from prefixkv.kernels.packed_row import STEP_BYTES, packed_size

__all__ = ["NORMAL_STEPS", "STEP_BYTES", "hadamard", "pack", "packed_size", "turn", "unpack", "unpack_turned"]

NORMAL_STEPS = {4: 0.3352, 2: 0.9957}
"""By bits: the step, in standard deviations, with which 16 or 4 equal steps lose least of a normal distribution (Max,
1960)."""


def pack(vectors: torch.Tensor, bits: int) -> torch.Tensor:
    """Round vectors to few bits.

    Args:
        vectors: (..., head_dim), any float dtype.
        bits: 8, 4 or 2.

    Returns:
        (..., packed_size), uint8. With 4 bits a byte holds element `i` in its low half and `i + head_dim / 2` in its
        high half; with 2 bits likewise four elements, a quarter of `head_dim` apart.
    """
    rotated = turn(vectors.float())
    half = 1 << (bits - 1)
    if bits == 8:
        step = rotated.abs().amax(dim=-1, keepdim=True) / (half - 0.5)
    else:
        deviation = torch.linalg.vector_norm(rotated, dim=-1, keepdim=True) / vectors.shape[-1] ** 0.5
        step = deviation * NORMAL_STEPS[bits]
    # A vector of zeros has no step of its own; any positive one will do.
    step.clamp_(min=2.0**-20)
    levels = (rotated / step).sub_(0.5).round_().clamp_(-half, half - 1)
    if bits != 8:
        middles = levels + 0.5
        step = torch.linalg.vecdot(middles, rotated) / torch.linalg.vecdot(middles, middles)
        step.unsqueeze_(-1)
    codes, *others = levels.add_(half).chunk(8 // bits, dim=-1)
    for number, part in enumerate(others, start=1):
        codes = torch.add(codes, part, alpha=1 << (bits * number))
    return torch.cat([codes.to(torch.uint8), step.half().view(torch.uint8)], dim=-1)


def unpack(packed: torch.Tensor, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """The vectors that were packed, as nearly as the bits allow.

    Args:
        packed: (..., packed_size), uint8.
        bits: 8, 4 or 2, as they were packed.
        dtype: of the result.

    Returns:
        (..., head_dim).
    """
    return turn(unpack_turned(packed, bits, torch.promote_types(dtype, torch.float32))).to(dtype)


def unpack_turned(packed: torch.Tensor, bits: int, exact: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    """The same vectors as they were rounded, still turned by the matrix of `turn`.

    Dot products with a query that is turned too are those of the vectors themselves, and a sum of turned vectors is
    turned back once.

    Args:
        packed: (..., packed_size), uint8.
        bits: 8, 4 or 2, as they were packed.
        exact: dtype of the result, float32 or more.
        out: where it is written, (..., head_dim), of that dtype; None for new memory.

    Returns:
        (..., head_dim).
    """
    steps = packed[..., -STEP_BYTES:].contiguous().view(torch.float16).to(exact)
    size, parts, mask = packed.shape[-1] - STEP_BYTES, 8 // bits, (1 << bits) - 1
    if out is None:
        out = steps.new_empty(*packed.shape[:-1], parts * size)
    for number, numbers in enumerate(out.split(size, dim=-1)):
        # Whole rows, the bytes of their steps among them: a CPU is slow where memory has gaps.
        part = packed >> bits * number if number else packed
        if number < parts - 1:
            part = part & mask
        torch.mul(part.to(exact).sub_(mask / 2)[..., :size], steps, out=numbers)
    return out


def turn(vectors: torch.Tensor) -> torch.Tensor:
    """Multiply by the (symmetric, orthogonal) Hadamard matrix; by blocks where head_dim is no power of two."""
    head_dim = vectors.shape[-1]
    block = head_dim & -head_dim
    matrix = hadamard(block, vectors.device).to(vectors.dtype)
    if block == head_dim:
        return torch.nn.functional.linear(vectors, matrix)
    return torch.nn.functional.linear(vectors.unflatten(-1, (-1, block)), matrix).flatten(-2)


@functools.cache
def hadamard(size: int, device: torch.device) -> torch.Tensor:
    """The normalised Hadamard matrix, (size, size), float32.

    Args:
        size: a power of two.
        device: where it is kept from then on.
    """
    # It outlives the call, so it must be an ordinary tensor even where the call is in inference mode.
    with torch.inference_mode(False):
        matrix = torch.ones(1, 1)
        while matrix.shape[0] < size:
            matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
        return (matrix / size**0.5).to(device)
