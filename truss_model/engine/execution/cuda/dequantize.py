# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Few tokens times a matrix of 8-bit weights with one scale an output: read as they are, widened in registers."""

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

MOST_TOKENS = 64  # of a step whose time is that of reading the weights; above, torch multiplies a widened copy


# How many tokens there are is no reason to compile again, nor is it a tile of their own.
@triton.jit(do_not_specialize=["tokens"])
def _scaled_matmul(
    x, weight, scales, y, x_row, tokens, inputs,
    OUTPUTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    token = tl.arange(0, BLOCK_M)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = row < OUTPUTS
    x_line = x + token.to(tl.int64)[:, None] * x_row
    weight_line = weight + row.to(tl.int64)[:, None] * inputs
    sum_ = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, inputs, BLOCK_K):
        at = start + tl.arange(0, BLOCK_K)
        there = (at < inputs)[None, :]
        part = tl.load(x_line + at[None, :], mask=(token < tokens)[:, None] & there, other=0.0)
        held = tl.load(weight_line + at[None, :], mask=inside[:, None] & there, other=0.0)
        sum_ += tl.dot(part, tl.trans(held.to(part.dtype)), input_precision="ieee")
    scaled = sum_ * tl.load(scales + row, mask=inside, other=0.0)[None, :]
    target = y + token.to(tl.int64)[:, None] * OUTPUTS + row[None, :]
    tl.store(target, scaled.to(y.dtype.element_ty), mask=(token < tokens)[:, None] & inside[None, :])


def widening_product(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """x [T, K], rows dense, times weight [N, K] of int8 or 8-bit floats and float32 scales [N] -> [T, N]."""
    tokens, inputs = x.shape
    outputs = len(weight)
    if tokens > MOST_TOKENS:
        return F.linear(x, weight.to(x.dtype).mul_(scales[:, None]))
    y = torch.empty(tokens, outputs, dtype=x.dtype, device=x.device)
    _scaled_matmul[(triton.cdiv(outputs, 64),)](
        x, weight, scales, y, x.stride(0), tokens, inputs,
        OUTPUTS=outputs, BLOCK_M=MOST_TOKENS, BLOCK_N=64, BLOCK_K=128, num_warps=4, num_stages=3,
    )  # fmt: skip
    return y
