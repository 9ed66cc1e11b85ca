"""Puts the packed modules into a transformers model, layer by layer, when every one of its parts fits the kernels."""

import ctypes
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP, MistralRMSNorm

from truss_model.engine.attention import PagedKV
from truss_model.engine.cpu.layers import (
    KernelRMSNorm,
    PackedLinear,
    PackedMLP,
    PackedSelfAttention,
    WeightType,
    packable,
)

ATTENTIONS = (LlamaAttention, MistralAttention)
MLPS = (LlamaMLP, MistralMLP)
NORMS = (LlamaRMSNorm, MistralRMSNorm)
PAGE_SIZE = 16  # kernels.c


def fits(model: PreTrainedModel, page_size: int) -> bool:
    """Whether the kernels can serve this model: Llama or Mistral layers, SiLU, no biases, heads of n x 16."""
    config = model.config
    if page_size != PAGE_SIZE or getattr(config, "hidden_act", None) not in ("silu", "swish"):
        return False
    layers = [layer for layer in getattr(model.base_model, "layers", [])]
    return bool(layers) and packable(_head(model)) and all(_layer_fits(layer) for layer in layers)


def swap(library: ctypes.CDLL, model: PreTrainedModel, kv: PagedKV, weights: WeightType) -> None:
    """Replace the layers' parts in place, freeing each original as it goes."""
    # What is left to torch is small; its OpenMP threads would spin on the cores that the kernels' threads need.
    torch.set_num_threads(1)
    base = model.base_model
    for layer in cast(nn.ModuleList, base.layers):
        layer.self_attn = PackedSelfAttention(library, cast(nn.Module, layer.self_attn), kv, weights)
        layer.mlp = PackedMLP(library, cast(nn.Module, layer.mlp), weights)
        layer.input_layernorm = KernelRMSNorm(library, cast(nn.Module, layer.input_layernorm))
        layer.post_attention_layernorm = KernelRMSNorm(library, cast(nn.Module, layer.post_attention_layernorm))
    base.norm = KernelRMSNorm(library, cast(nn.Module, base.norm))
    model.lm_head = PackedLinear(library, cast(nn.Linear, _head(model)), weights)


def _head(model: PreTrainedModel) -> nn.Module:
    return cast(nn.Module, model.lm_head)


def _layer_fits(layer: nn.Module) -> bool:
    attention, mlp = cast(nn.Module, layer.self_attn), cast(nn.Module, layer.mlp)
    return (
        type(attention) in ATTENTIONS
        and type(mlp) in MLPS
        and type(layer.input_layernorm) in NORMS
        and type(layer.post_attention_layernorm) in NORMS
        and cast(int, attention.head_dim) % 16 == 0
        and all(packable(getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
        and all(packable(getattr(mlp, name)) for name in ("gate_proj", "up_proj", "down_proj"))
    )
