"""Puts the packed modules into a transformers model when every one of its parts fits the kernels."""

import ctypes
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from truss_model.engine.execution.attention import PagedKV
from truss_model.engine.execution.cpu.attention import PAGE_SIZE
from truss_model.engine.execution.cpu.decoder import PackedDecoder, uniform
from truss_model.engine.execution.cpu.layers import PackedLinear, WeightType, packable
from truss_model.engine.execution.llama import linears, llama_layers


def fits(model: PreTrainedModel, page_size: int) -> bool:
    """Whether the kernels can serve this model: Llama's layers, all alike, plain linear ones without biases, heads of
    n x 16."""
    layers = llama_layers(model)
    heads = [cast(int, cast(nn.Module, layer.self_attn).head_dim) for layer in layers]
    return (
        page_size == PAGE_SIZE
        and bool(layers)
        and all(dim % 16 == 0 for dim in heads)
        and packable(_head(model))
        and all(packable(linear) for layer in layers for linear in linears(layer))
        and uniform(layers, cast(nn.Module, model.base_model.norm))
    )


def replace_layers(library: ctypes.CDLL, model: PreTrainedModel, kv: PagedKV, weights: WeightType) -> None:
    """Replace the layers in place, freeing each original as it goes: one layer is left, which is all and the norm."""
    # What is left to torch is small; its OpenMP threads would spin on the cores that the kernels' threads need.
    torch.set_num_threads(1)
    base = model.base_model
    layers = cast(nn.ModuleList, base.layers)
    layers.append(PackedDecoder(library, layers, cast(nn.Module, base.norm), kv, weights))
    base.norm = nn.Identity()
    model.lm_head = PackedLinear(library, cast(nn.Linear, _head(model)), weights)


def _head(model: PreTrainedModel) -> nn.Module:
    return cast(nn.Module, model.lm_head)
