"""All layers of a Llama-family model and its last norm as one module that makes one C call a step.

Same arithmetic as transformers' own modules, over packed weights. A model's own forward finds this one layer.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from truss_model.engine.execution.attention import PagedKV, refuse_unknown, running_batch
from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.cpu.layers import WeightType, pack, pack_in_turn
from truss_model.engine.execution.llama import ATTENTION_LINEARS, MLP_LINEARS, linears, sliding_window

_pointer, _long, _float, _int = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int


class _Layer(ctypes.Structure):
    """decoder.c: struct layer."""

    _fields_ = [(name, _pointer) for name in ("attention_norm", "mlp_norm", "qkv", "o", "gate_up", "down")]


class _Decoder(ctypes.Structure):
    """decoder.c: struct decoder."""

    _fields_ = [
        *((name, _pointer) for name in ("layers", "norm")),
        *((name, _long) for name in ("count", "hidden", "inner", "hq", "hk", "d")),
        ("eps", _float),
        ("scale", _float),
        ("bf16", _int),
    ]


class _Step(ctypes.Structure):
    """decoder.c: struct step."""

    _fields_ = [
        *((name, _pointer) for name in ("cos", "sin", "slots", "keys", "values", "tables", "starts", "contexts")),
        *((name, _long) for name in ("floats", "tokens", "sequences", "width", "window")),
    ]


class PackedDecoder(nn.Module):
    """The decoder layers over the pages, and the norm behind them. All but the products' weights is float32; what goes
    into a product is rounded where those are of bfloat16."""

    def __init__(self, library: ctypes.CDLL, layers: nn.ModuleList, norm: nn.Module, kv: PagedKV, weights: WeightType):
        """Take the layers out of `layers` one by one, so that each original is free once it is packed."""
        super().__init__()
        self._decode, self._kv = library.decode, kv
        self.sliding_window = sliding_window(layers[0])
        self._kept = [_norm(norm)]  # no buffers: those would move away from under the pointers on .to()
        self._layers = (_Layer * len(layers))()
        self._decoder = _Decoder(
            layers=ctypes.addressof(self._layers), norm=self._kept[0].data_ptr(), count=len(layers),
            eps=norm.variance_epsilon, bf16=weights == "bfloat16", **_shape(layers[0]),
        )  # fmt: skip
        for at in range(len(layers)):
            parts = _packed(layers.pop(0), weights)
            self._kept += parts
            self._layers[at] = _Layer(*(part.data_ptr() for part in parts))

    def forward(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **others: object
    ) -> torch.Tensor:
        """hidden_states [1, T, N] -> the same of the last norm. Raises LoadError for what `others` ask of attention."""
        refuse_unknown(self, others)
        cos, sin = (part.float().contiguous() for part in position_embeddings)
        return self.run(running_batch(), hidden_states.float().contiguous(), cos, sin)

    def run(self, batch: StepBatch, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x: contiguous [..., T, N] -> the same of the last norm. cos, sin: [..., T, D] of the tokens' positions."""
        y = torch.empty_like(x)
        step = self._step(batch, cos, sin)
        if self._decode(ctypes.addressof(self._decoder), ctypes.addressof(step), x.data_ptr(), y.data_ptr()):
            raise MemoryError(f"no memory for a step of {step.tokens} tokens")
        return y

    def _step(self, batch: StepBatch, cos: torch.Tensor, sin: torch.Tensor) -> _Step:
        """What it points to belongs to the arguments."""
        tokens, dim = batch.slots.numel(), self._decoder.d
        if cos.shape[-2:] != (tokens, dim):
            raise ValueError(f"rotary embeddings {list(cos.shape[1:])} for {tokens} tokens of {dim}")
        rows, width = batch.tables.shape
        return _Step(
            cos.data_ptr(), sin.data_ptr(), batch.slots.data_ptr(), self._kv.keys.data_ptr(),
            self._kv.values.data_ptr(), batch.tables.data_ptr(), batch.starts.data_ptr(), batch.contexts.data_ptr(),
            self._kv.keys.stride(0), tokens, rows, width, self.sliding_window or 0,
        )  # fmt: skip


def _shape(layer: nn.Module) -> dict[str, Any]:
    """As _Decoder names it; the same in all layers."""
    attention, mlp = cast(Any, layer.self_attn), cast(Any, layer.mlp)
    return {
        "hidden": mlp.down_proj.out_features,
        "inner": mlp.down_proj.in_features,
        "hq": attention.config.num_attention_heads,
        "hk": attention.config.num_key_value_heads,
        "d": attention.head_dim,
        "scale": attention.scaling,
    }


def uniform(layers: Sequence[nn.Module], norm: nn.Module) -> bool:
    """Whether one shape and one eps describe all layers, and their weights are of it."""
    shape, eps = _shape(layers[0]), norm.variance_epsilon
    heads, kv_heads = shape["hq"] * shape["d"], shape["hk"] * shape["d"]
    hidden, inner = shape["hidden"], shape["inner"]
    sizes = [(hidden, heads), (hidden, kv_heads), (hidden, kv_heads), (heads, hidden)]
    sizes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    return all(
        _shape(layer) == shape
        and [(cast(Any, linear).in_features, cast(Any, linear).out_features) for linear in linears(layer)] == sizes
        and all(
            cast(Any, each).variance_epsilon == eps for each in (layer.input_layernorm, layer.post_attention_layernorm)
        )
        for layer in layers
    )


def _packed(layer: nn.Module, weights: WeightType) -> list[torch.Tensor]:
    """As _Layer wants them."""
    q, k, v, o = (cast(nn.Linear, getattr(layer.self_attn, name)) for name in ATTENTION_LINEARS)
    gate, up, down = (cast(nn.Linear, getattr(layer.mlp, name)) for name in MLP_LINEARS)
    norms = (cast(nn.Module, norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm))
    products = (pack([q, k, v], weights), pack([o], weights), pack_in_turn(gate, up, weights), pack([down], weights))
    return [*map(_norm, norms), *products]


def _norm(norm: nn.Module) -> torch.Tensor:
    return cast(torch.Tensor, norm.weight).detach().float().contiguous()
