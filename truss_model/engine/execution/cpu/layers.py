"""Linear layers over weights packed for the C kernels."""

import ctypes
from typing import Literal

import torch
from torch import nn

TILE = 16
WeightType = Literal["float32", "bfloat16"]


class Product:
    """y = x W^T over weights packed for the kernels; float32 in and out, weights kept in float32 or bfloat16.

    No module: as a buffer the weights would move away from under the pointer on .to(), and a call would cost more.
    """

    def __init__(self, library: ctypes.CDLL, linears: list[nn.Linear], weights: WeightType) -> None:
        self._linear = library.linear
        self._bfloat16 = weights == "bfloat16"
        self.inputs = linears[0].in_features
        self.outputs = sum(linear.out_features for linear in linears)
        self._packed = pack(linears, weights)
        self._pointer = self._packed.data_ptr()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: contiguous [..., inputs] -> [..., outputs]."""
        shape = x.shape[:-1]
        y = torch.empty(*shape, self.outputs)
        rows = shape.numel()
        self._linear(x.data_ptr(), self._pointer, y.data_ptr(), rows, self.inputs, self.outputs, self._bfloat16)
        return y


class PackedLinear(nn.Module):
    """A Product in the place of one linear layer."""

    def __init__(self, library: ctypes.CDLL, linear: nn.Linear, weights: WeightType) -> None:
        super().__init__()
        self.product = Product(library, [linear], weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x.contiguous())


def pack(linears: list[nn.Linear], weights: WeightType) -> torch.Tensor:
    """Weights [N, K] of all, one after another -> [N/16, K, 16] float32, or [N/16, K/2, 16, 2] bfloat16."""
    joined = torch.cat([linear.weight.detach() for linear in linears])
    outputs, inputs = joined.shape
    if weights == "bfloat16":
        return joined.to(torch.bfloat16).view(outputs // TILE, TILE, inputs // 2, 2).transpose(1, 2).contiguous()
    return joined.float().view(outputs // TILE, TILE, inputs).transpose(1, 2).contiguous()


def pack_in_turn(gate: nn.Linear, up: nn.Linear, weights: WeightType) -> torch.Tensor:
    """Two layers of the same shape, a tile of each in turn."""
    return torch.stack([pack([linear], weights) for linear in (gate, up)], 1).flatten(0, 1)


def packable(linear: nn.Module) -> bool:
    """Whether a layer fits the kernels: plain weights, no bias, whole tiles, an even number of inputs."""
    return (
        type(linear) is nn.Linear
        and type(linear.weight) is nn.Parameter  # quantised weights are tensors of a type of their own
        and linear.bias is None
        and linear.out_features % TILE == 0
        and linear.in_features % 2 == 0
        and linear.weight.device.type == "cpu"
    )
