# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Weights in 8-bit floats with one scale an output, and tokens quantised on the way in, one scale a token."""

import torch
import triton
import triton.language as tl

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
LEAST_CAPABILITY = (9, 0)  # of torch's product of matrices with a scale a row


def multiplies(device: torch.device) -> bool:
    """Whether `scaled_product` works there; on the CPU it is calculated in float32."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


@triton.jit
def _quantize(x, y, scales, row_stride, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * row_stride + at, mask=at < SIZE, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), 0), 1e-12) / 448.0
    tl.store(y + row * SIZE + at, (values / scale).to(y.dtype.element_ty), mask=at < SIZE)
    tl.store(scales + row, scale)


def quantize_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, N], rows dense -> 8-bit floats [T, N] and float32 scales [T, 1]."""
    rows, size = x.shape
    y = torch.empty(rows, size, dtype=FP8, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    _quantize[(rows,)](x, y, scales, x.stride(0), SIZE=size, BLOCK=triton.next_power_of_2(size), num_warps=8)
    return y, scales


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [N, K] -> 8-bit floats [N, K] and float32 scales [N]."""
    scales = weight.abs().amax(1).float().clamp_min(1e-12) / LARGEST
    return (weight / scales[:, None]).to(FP8), scales


def scaled_product(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """x [T, K] times weight [N, K] -> [T, N] in x's dtype."""
    tokens, token_scales = quantize_tokens(x)
    if x.device.type == "cpu":  # where torch's kernel knows no scales a row
        wide = (tokens.float() * token_scales) @ (weight.float() * scales[:, None]).t()
        return wide.to(x.dtype)
    return torch._scaled_mm(tokens, weight.t(), scale_a=token_scales, scale_b=scales[None, :], out_dtype=x.dtype)
