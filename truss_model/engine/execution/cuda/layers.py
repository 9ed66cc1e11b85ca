"""Modules that take the place of a Llama-family model's decoder layers, norm, rotary embedding and head on a GPU.

Same arithmetic as transformers' own, in fewer passes over memory; the model's forward stays.
"""

from typing import cast

import torch
from torch import nn

from truss_model.engine.execution.attention import refuse_unknown, running_batch
from truss_model.engine.execution.cuda.append import rotate_append
from truss_model.engine.execution.cuda.attention import TritonPagedAttention
from truss_model.engine.execution.cuda.weights import AddedProjection, GatedProjection, Norm, Projections
from truss_model.engine.execution.llama import ATTENTION_LINEARS, rotary_table, sliding_window


class FusedDecoderLayer(nn.Module):
    """One layer over the pages: seven to ten kernels. Adds to the residual stream in place."""

    def __init__(self, layer: nn.Module, attention: TritonPagedAttention, *, fp8: bool) -> None:
        super().__init__()
        old, mlp = cast(nn.Module, layer.self_attn), cast(nn.Module, layer.mlp)
        self.index = cast(int, old.layer_idx)
        self.head_dim = cast(int, old.head_dim)
        self.scaling = cast(float, old.scaling)
        self.sliding_window = sliding_window(layer)
        self.attention = attention
        q, k, v, o = (cast(nn.Module, getattr(old, name)) for name in ATTENTION_LINEARS)
        gate, up, down = (cast(nn.Module, part) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        self.qkv = Projections(cast(nn.Module, layer.input_layernorm), [q, k, v], fp8=fp8)
        self.out = AddedProjection(o, fp8=fp8)
        self.gate_up = GatedProjection(cast(nn.Module, layer.post_attention_layernorm), [gate, up], fp8=fp8)
        self.down = AddedProjection(down, fp8=fp8)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **others: object,
    ) -> torch.Tensor:
        """hidden_states [1, T, N], changed and returned. position_embeddings: RotaryTable's.

        Raises LoadError for what `others` ask of attention.
        """
        refuse_unknown(self, others)
        batch = running_batch()
        stream = hidden_states[0]
        query, key, value = (part.view(len(part), -1, self.head_dim) for part in self.qkv(stream))
        pages = self.attention.kv.keys[self.index], self.attention.kv.values[self.index]
        rotate_append(query, key, value, position_embeddings, batch.positions, batch.slots, *pages)
        attended = self.attention.attend(self.index, query, batch, self.scaling, self.sliding_window)
        self.out(attended.flatten(1), stream)
        self.down(self.gate_up.gated(stream), stream)
        return hidden_states


class FusedNorm(nn.Module):
    """The model's last RMS norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self._norm = Norm(norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._norm(x[0])[None]


class RotaryTable(nn.Module):
    """Cosines and sines of every position, made once: the layers look up what they need."""

    def __init__(self, rotary: nn.Module, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        both = rotary_table(rotary, positions, torch.empty(0, dtype=dtype, device=device))
        self.cos, self.sin = (part[:, : part.shape[-1] // 2].contiguous() for part in both)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both tables whole, [positions, D / 2], whatever the positions are."""
        return self.cos, self.sin
