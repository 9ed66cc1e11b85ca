"""Modules that take the place of a Llama-family model's linear layers, norms, MLP and attention on the CPU.

Same arithmetic as transformers' own modules, over packed weights and with the C kernels; the model's forward stays.
"""

import ctypes
from typing import Literal, cast

import torch
from torch import nn

from truss_model.engine.execution.attention import running_batch
from truss_model.engine.execution.cpu.attention import KernelPagedAttention

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
        self._packed = _pack([linear.weight for linear in linears], self._bfloat16)
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


class KernelRMSNorm(nn.Module):
    """x / rms(x) * weight in one pass."""

    def __init__(self, library: ctypes.CDLL, norm: nn.Module) -> None:
        super().__init__()
        self._library = library
        self.weight = nn.Parameter(cast(torch.Tensor, norm.weight).detach().float().contiguous(), requires_grad=False)
        self.eps = cast(float, norm.variance_epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        size = self.weight.numel()
        self._library.rms_norm(x.data_ptr(), self.weight.data_ptr(), y.data_ptr(), x.numel() // size, size, self.eps)
        return y


class PackedMLP(nn.Module):
    """SiLU-gated MLP with gate and up in one product."""

    def __init__(self, library: ctypes.CDLL, mlp: nn.Module, weights: WeightType) -> None:
        super().__init__()
        self._library = library
        self.gate_up = Product(library, [cast(nn.Linear, mlp.gate_proj), cast(nn.Linear, mlp.up_proj)], weights)
        self.down = Product(library, [cast(nn.Linear, mlp.down_proj)], weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate_up = self.gate_up(x.contiguous())
        inner = torch.empty(*x.shape[:-1], self.down.inputs)
        rows = inner.numel() // self.down.inputs
        self._library.silu_mul(gate_up.data_ptr(), inner.data_ptr(), rows, self.down.inputs)
        return self.down(inner)


class PackedSelfAttention(nn.Module):
    """Attention of one layer over the pages: one product for q, k and v, rotary and append in one pass."""

    def __init__(
        self, library: ctypes.CDLL, module: nn.Module, attention: KernelPagedAttention, weights: WeightType
    ) -> None:
        super().__init__()
        config = cast(object, module.config)
        heads = cast(int, config.num_attention_heads)  # type: ignore[attr-defined]
        kv_heads = cast(int, config.num_key_value_heads)  # type: ignore[attr-defined]
        self.shape = heads, kv_heads, cast(int, module.head_dim)
        self.scaling = cast(float, module.scaling)
        self.sliding_window = cast("int | None", getattr(config, "sliding_window", None))
        projections = [cast(nn.Linear, getattr(module, name)) for name in ("q_proj", "k_proj", "v_proj")]
        self.qkv = Product(library, projections, weights)
        self.o = Product(library, [cast(nn.Linear, module.o_proj)], weights)
        self.layer = cast(int, module.layer_idx)
        self._attention = attention

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        batch = running_batch()
        qkv = self.qkv(hidden_states.contiguous())
        self._attention.append(self.layer, qkv, position_embeddings, batch, self.shape)
        out = self._attention.attend(self.layer, qkv, batch, self.shape, self.scaling, self.sliding_window)
        return self.o(out.flatten(1)[None]), None


def _pack(weights: list[torch.Tensor], bfloat16: bool) -> torch.Tensor:
    """[N, K] -> [N/16, K, 16] float32, or [N/16, K/2, 16, 2] bfloat16."""
    joined = torch.cat([weight.detach() for weight in weights])
    outputs, inputs = joined.shape
    if bfloat16:
        return joined.to(torch.bfloat16).view(outputs // TILE, TILE, inputs // 2, 2).transpose(1, 2).contiguous()
    return joined.float().view(outputs // TILE, TILE, inputs).transpose(1, 2).contiguous()


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
