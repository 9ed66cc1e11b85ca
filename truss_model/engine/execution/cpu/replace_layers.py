"""Puts the packed modules into a transformers model, layer by layer, when every one of its parts fits the kernels."""

import ctypes
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from truss_model.engine.execution.cpu.attention import PAGE_SIZE, KernelPagedAttention
from truss_model.engine.execution.cpu.layers import (
    KernelRMSNorm,
    PackedLinear,
    PackedMLP,
    PackedSelfAttention,
    WeightType,
    packable,
)
from truss_model.engine.execution.llama import linears, llama_layers


def fits(model: PreTrainedModel, page_size: int) -> bool:
    """Whether the kernels can serve this model: Llama's layers, plain linear ones without biases, heads of n x 16."""
    layers = llama_layers(model)
    heads = [cast(int, cast(nn.Module, layer.self_attn).head_dim) for layer in layers]
    return (
        page_size == PAGE_SIZE
        and bool(layers)
        and all(dim % 16 == 0 for dim in heads)
        and packable(_head(model))
        and all(packable(linear) for layer in layers for linear in linears(layer))
    )


def replace_layers(
    library: ctypes.CDLL, model: PreTrainedModel, attention: KernelPagedAttention, weights: WeightType
) -> None:
    """Replace the layers' parts in place, freeing each original as it goes."""
    # What is left to torch is small; its OpenMP threads would spin on the cores that the kernels' threads need.
    torch.set_num_threads(1)
    base = model.base_model
    for layer in cast(nn.ModuleList, base.layers):
        layer.self_attn = PackedSelfAttention(library, cast(nn.Module, layer.self_attn), attention, weights)
        layer.mlp = PackedMLP(library, cast(nn.Module, layer.mlp), weights)
        layer.input_layernorm = KernelRMSNorm(library, cast(nn.Module, layer.input_layernorm))
        layer.post_attention_layernorm = KernelRMSNorm(library, cast(nn.Module, layer.post_attention_layernorm))
    base.norm = KernelRMSNorm(library, cast(nn.Module, base.norm))
    model.lm_head = PackedLinear(library, cast(nn.Linear, _head(model)), weights)


def _head(model: PreTrainedModel) -> nn.Module:
    return cast(nn.Module, model.lm_head)
