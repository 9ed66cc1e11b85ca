# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""RMS norm and the SiLU gate, each in one pass, rounded where transformers' own modules round."""

import torch
import triton
import triton.language as tl


@triton.jit
def _rms_norm(x, weight, y, row_stride, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * row_stride + at, mask=at < SIZE, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / SIZE + eps)
    gain = tl.load(weight + at, mask=at < SIZE, other=0.0).to(tl.float32)
    normed = (values * scale).to(x.dtype.element_ty).to(tl.float32)
    tl.store(y + row * SIZE + at, (normed * gain).to(y.dtype.element_ty), mask=at < SIZE)


@triton.jit
def _silu_mul(gate, up, y, gate_row, up_row, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < SIZE
    g = tl.load(gate + row * gate_row + at, mask=there, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + at, mask=there, other=0.0).to(tl.float32)
    activated = (g * tl.sigmoid(g)).to(gate.dtype.element_ty).to(tl.float32)
    tl.store(y + row * SIZE + at, (activated * u).to(y.dtype.element_ty), mask=there)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x [T, N], rows dense -> [T, N]."""
    rows, size = x.shape
    y = torch.empty(rows, size, dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(size)
    _rms_norm[(rows,)](x, weight, y, x.stride(0), eps, SIZE=size, BLOCK=block, num_warps=4 if block <= 2048 else 8)
    return y


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, both [T, N] with dense rows -> [T, N]."""
    rows, size = gate.shape
    y = torch.empty(rows, size, dtype=gate.dtype, device=gate.device)
    block = 1024
    _silu_mul[(rows, triton.cdiv(size, block))](
        gate, up, y, gate.stride(0), up.stride(0), SIZE=size, BLOCK=block, num_warps=4
    )
    return y
