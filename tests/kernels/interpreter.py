"""Completes Triton's interpreter, in which kernels run where there is no GPU.

By itself it keeps bfloat16 numbers as integers of 16 bits: it multiplies matrices of those integers, and cuts float32
numbers off where a GPU rounds to the nearest. And Triton 3.6 counts a loop by an array of one number, which NumPy
takes for no number since 2.4.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch


@functools.cache
def complete() -> None:
    """Replace what is missing, in this process, once."""
    from triton.runtime import interpreter

    _compute_in_bfloat16(interpreter)
    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_count(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_and_count


def _compute_in_bfloat16(interpreter: Any) -> None:
    import triton.language as tl

    builder, handle_of = interpreter.InterpreterBuilder, interpreter.TensorHandle
    cast, dot = builder.cast_impl, builder.create_dot

    def exact(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return handle_of((np.asarray(handle.data).astype(np.uint32) << 16).view(np.float32), tl.float32)

    def cast_impl(self: Any, handle: Any, to: Any) -> Any:
        if handle.dtype.scalar == to.scalar:
            return handle
        if to.scalar != tl.bfloat16:
            return cast(self, exact(handle), to)
        numbers = torch.from_numpy(np.asarray(handle.data, dtype=np.float32))
        return handle_of(numbers.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16), tl.bfloat16)

    def create_dot(self: Any, left: Any, right: Any, *rest: Any) -> Any:
        return dot(self, exact(left), exact(right), *rest)

    builder.cast_impl, builder.create_dot = cast_impl, create_dot
