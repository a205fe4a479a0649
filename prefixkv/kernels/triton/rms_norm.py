"""RMSNorm and SwiGLU in Triton, for rows; `prefixkv.kernels.linear` is the specification."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rms_norm_kernel(x_ptr, gain_ptr, out_ptr, x_row, inputs, epsilon, K: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, K)
    inside = columns < inputs
    x = tl.load(x_ptr + row * x_row + columns, inside, 0.0)
    exact = x.to(tl.float32)
    scaled = exact * tl.rsqrt(tl.sum(exact * exact, axis=0) / inputs + epsilon)
    gain = tl.load(gain_ptr + columns, inside, 0.0).to(tl.float32)
    tl.store(out_ptr + row * inputs + columns, (scaled.to(x.dtype).to(tl.float32) * gain).to(x.dtype), inside)


@triton.jit
def _swiglu_kernel(gate_ptr, up_ptr, out_ptr, count, K: tl.constexpr):
    where = tl.program_id(0).to(tl.int64) * K + tl.arange(0, K)
    inside = where < count
    gate = tl.load(gate_ptr + where, inside, 0.0)
    exact = gate.to(tl.float32)
    activated = (exact * tl.sigmoid(exact)).to(gate.dtype).to(tl.float32)
    up = tl.load(up_ptr + where, inside, 0.0).to(tl.float32)
    tl.store(out_ptr + where, (activated * up).to(gate.dtype), inside)


def rms_norm(hidden: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    """As the plain twin."""
    rows, inputs = hidden.shape
    out = torch.empty(rows, inputs, dtype=hidden.dtype, device=hidden.device)
    _rms_norm_kernel[(rows,)](
        hidden, gain, out, hidden.stride(0), inputs, epsilon, K=triton.next_power_of_2(inputs), num_warps=8
    )
    return out


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, both contiguous and of one shape; `gate` is overwritten."""
    _swiglu_kernel[(triton.cdiv(gate.numel(), 1024),)](gate, up, gate, gate.numel(), K=1024, num_warps=4)
    return gate
