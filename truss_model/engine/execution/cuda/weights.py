"""Linear layers as the kernels read them: joined into one matrix where that is possible, left alone where not."""

from typing import Self, cast

import torch
from torch import nn
from torch.nn import functional as F

from truss_model.engine.execution.cuda.dequantize import widening_product
from truss_model.engine.execution.cuda.elementwise import rms_norm, silu_mul
from truss_model.engine.execution.cuda.fp8 import FP8, multiplies, quantize_weight, scaled_product
from truss_model.engine.execution.cuda.vector import Tiling, multiply

EIGHT_BITS = {FP8, torch.int8}


class Weight:
    """matrix [N, K] in the model's dtype, or in int8 or 8-bit floats with float32 `scales` [N].

    `tiling` is the vector kernel's, for steps of one token; None: torch's product is faster there too.
    """

    def __init__(self, matrix: torch.Tensor, scales: torch.Tensor | None) -> None:
        self.matrix = matrix
        self.scales = scales
        self.tiling: Tiling | None = None

    @classmethod
    def of(cls, linears: list[nn.Module], *, fp8: bool = False) -> Self | None:
        """The layers as one matrix, or None where one of them is not plain (another quantisation, a bias)."""
        parts = [_read(linear) for linear in linears]
        plain = [part for part in parts if part is not None]
        if len(plain) < len(parts) or len({matrix.dtype for matrix, _ in plain}) > 1:
            return None
        if fp8:
            plain = [part if part[1] is not None else quantize_weight(part[0]) for part in plain]
        scales = [scale for _, scale in plain if scale is not None]
        if len(plain) == 1:
            return cls(plain[0][0], scales[0] if scales else None)
        if not scales:
            return cls(torch.cat([matrix for matrix, _ in plain]), None)
        joined = torch.cat([matrix.view(torch.uint8) for matrix, _ in plain])
        return cls(joined.view(plain[0][0].dtype), torch.cat(scales))

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, K] -> [T, N]."""
        if self.scales is None:
            return F.linear(x, self.matrix)
        if self.matrix.dtype == FP8 and multiplies(self.matrix.device):
            return scaled_product(x, self.matrix, self.scales)
        return widening_product(x, self.matrix, self.scales)


def _read(linear: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """A layer's matrix and scales. torchao keeps 8-bit weights in a tensor of its own with `qdata` and `scale`."""
    if type(linear) is not nn.Linear or linear.bias is not None:
        return None
    weight = linear.weight
    if type(weight) is nn.Parameter:
        return (weight.detach(), None) if weight.dtype.is_floating_point else None
    data, scale = getattr(weight, "qdata", None), getattr(weight, "scale", None)
    per_output = isinstance(scale, torch.Tensor) and scale.numel() == linear.out_features
    zero = getattr(weight, "zero_point", None)
    if getattr(weight, "act_quant_kwargs", None) is not None or (zero is not None and bool(zero.any())):
        return None
    if isinstance(data, torch.Tensor) and data.dtype in EIGHT_BITS and data.shape == weight.shape and per_output:
        return data.contiguous(), cast(torch.Tensor, scale).float().reshape(-1).contiguous()
    return None


class Norm:
    """Gain and epsilon of an RMS norm."""

    def __init__(self, norm: nn.Module) -> None:
        self.gain = cast(torch.Tensor, norm.weight).detach()
        self.eps = cast(float, norm.variance_epsilon)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.gain, self.eps)


class Projections:
    """A norm, then several linear layers over its result, each its own output."""

    def __init__(self, norm: nn.Module, linears: list[nn.Module], *, fp8: bool) -> None:
        self.norm = Norm(norm)
        self.weight = Weight.of(linears, fp8=fp8)
        self._sizes = [cast(int, linear.out_features) for linear in linears]
        self._linears = linears if self.weight is None else []

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x [T, K] -> one [T, N] a layer, rows dense but not always next to each other."""
        if self.weight is None:
            normed = self.norm(x)
            return tuple(linear(normed) for linear in self._linears)
        if len(x) == 1 and self.weight.tiling is not None:
            joined = multiply(
                x, self.weight.matrix, self.weight.tiling,
                scales=self.weight.scales, norm=(self.norm.gain, self.norm.eps),
            )  # fmt: skip
        else:
            joined = self.weight.product(self.norm(x))
        return torch.split(joined, self._sizes, -1)


class GatedProjection(Projections):
    """A norm, then silu(gate) * up."""

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight is not None and self.weight.tiling is not None and len(x) == 1:
            norm = (self.norm.gain, self.norm.eps)
            return multiply(x, self.weight.matrix, self.weight.tiling, scales=self.weight.scales, norm=norm, gated=True)
        return silu_mul(*self(x))


class AddedProjection:
    """A linear layer whose result is added to the residual stream in place."""

    def __init__(self, linear: nn.Module, *, fp8: bool) -> None:
        self.weight = Weight.of([linear], fp8=fp8)
        self._linear = linear if self.weight is None else None

    def __call__(self, x: torch.Tensor, stream: torch.Tensor) -> None:
        """x [T, K], stream [T, N]."""
        if self._linear is not None:
            stream += self._linear(x)
        elif self.weight is not None and self.weight.tiling is not None and len(x) == 1:
            multiply(x, self.weight.matrix, self.weight.tiling, scales=self.weight.scales, add_to=stream)
        elif self.weight is not None and self.weight.scales is None:
            stream.addmm_(x, self.weight.matrix.t())
        elif self.weight is not None:
            stream += self.weight.product(x)


class Head(nn.Module):
    """The language model's head."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = Weight(linear.weight.detach(), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., K] -> logits [..., vocab]."""
        if x.shape[:-1].numel() == 1 and self.weight.tiling is not None:
            return multiply(x.flatten(0, -2), self.weight.matrix, self.weight.tiling).view(*x.shape[:-1], -1)
        return self.weight.product(x)
