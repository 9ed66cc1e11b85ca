# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Matrix times one token's vector, where decoding one row spends its time: reads the weights once, at memory's pace.

The neighbours are fused in: RMS norm before, residual or SiLU gate after, scales of 8-bit weights. Sums are float32.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True, slots=True)
class Tiling:
    """outputs and inputs a program reads at a time, its warps, and how many loads it has under way."""

    outputs: int
    inputs: int
    warps: int
    stages: int


TILINGS = (Tiling(2, 1024, 4, 1), Tiling(4, 1024, 4, 1), Tiling(4, 512, 4, 4), Tiling(8, 512, 8, 3))


@triton.jit
def _dot(
    x, gain, weight, rows, inputs,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, NORM: tl.constexpr, PAIR: tl.constexpr,
    OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Dot products of `rows` of the matrix (and, if PAIR, of the rows OUTPUTS further on), and the vector's squares."""
    sums = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    others = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    line = rows.to(tl.int64)[:, None] * inputs
    inside = (rows < OUTPUTS)[:, None]
    for start in tl.range(0, inputs, BLOCK_K, num_stages=STAGES):
        at = start + tl.arange(0, BLOCK_K)
        there = at < inputs
        part = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        if NORM:
            squares += part * part
            part = part * tl.load(gain + at, mask=there, other=0.0).to(tl.float32)
        mask = inside & there[None, :]
        w = tl.load(weight + line + at[None, :], mask=mask, other=0.0, eviction_policy="evict_first")
        sums += w.to(tl.float32) * part[None, :]
        if PAIR:
            further = weight + line + at[None, :] + OUTPUTS * inputs
            w = tl.load(further, mask=mask, other=0.0, eviction_policy="evict_first")
            others += w.to(tl.float32) * part[None, :]
    return tl.sum(sums, 1), tl.sum(others, 1), tl.sum(squares, 0)


@triton.jit
def _multiply(
    x, gain, weight, scales, y, eps, inputs,
    OUTPUTS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < OUTPUTS
    result, other, squares = _dot(
        x, gain, weight, rows, inputs, BLOCK_N, BLOCK_K, STAGES, NORM, GATED, OUTPUTS
    )  # fmt: skip
    if NORM:
        norm = tl.rsqrt(squares / inputs + eps)
        result = result * norm
        other = other * norm
    if SCALED:
        result = result * tl.load(scales + rows, mask=inside, other=0.0)
    if GATED:
        if SCALED:
            other = other * tl.load(scales + OUTPUTS + rows, mask=inside, other=0.0)
        result = result * tl.sigmoid(result) * other
    if ADD:
        result += tl.load(y + rows, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + rows, result.to(y.dtype.element_ty), mask=inside)


def multiply(
    x: torch.Tensor,
    weight: torch.Tensor,
    tiling: Tiling,
    *,
    scales: torch.Tensor | None = None,
    norm: tuple[torch.Tensor, float] | None = None,
    gated: bool = False,
    add_to: torch.Tensor | None = None,
) -> torch.Tensor:
    """weight [N, K] times x [1, K] -> [1, N], or added to `add_to` in place.

    norm: gain and epsilon of an RMS norm of x that comes first. gated: the upper half of weight's rows gates the lower
    one, silu(gate) * up -> [1, N / 2]. scales: float32 [N], of weights in 8 bits.
    """
    outputs, inputs = weight.shape
    outputs = outputs // 2 if gated else outputs
    y = torch.empty(1, outputs, dtype=x.dtype, device=x.device) if add_to is None else add_to
    gain, eps = (x, 0.0) if norm is None else norm
    _multiply[(triton.cdiv(outputs, tiling.outputs),)](
        x, gain, weight, x if scales is None else scales, y, eps, inputs,
        OUTPUTS=outputs, BLOCK_N=tiling.outputs, BLOCK_K=tiling.inputs, STAGES=tiling.stages,
        NORM=norm is not None, GATED=gated, ADD=add_to is not None, SCALED=scales is not None,
        num_warps=tiling.warps,
    )  # fmt: skip
    return y
