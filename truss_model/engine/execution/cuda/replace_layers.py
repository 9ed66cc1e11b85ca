"""Puts the fused modules into a transformers model, layer by layer, when all of them are Llama's or Mistral's."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from truss_model.engine.execution.cuda.attention import TritonPagedAttention
from truss_model.engine.execution.cuda.layers import FusedDecoderLayer, FusedNorm, RotaryTable
from truss_model.engine.execution.cuda.weights import Head, Weight
from truss_model.engine.execution.device_memory import DeviceMemory
from truss_model.engine.execution.llama import STATIC_ROPES, linears, llama_layers


def fits(model: PreTrainedModel) -> bool:
    """Whether every layer can be replaced: Llama's structure, no biases, a static rotary embedding."""
    layers = llama_layers(model)
    rotary = getattr(model.base_model, "rotary_emb", None)
    return (
        bool(layers)
        and getattr(rotary, "rope_type", None) in STATIC_ROPES
        and all(getattr(linear, "bias", None) is None for layer in layers for linear in linears(layer))
    )


def replace_layers(
    model: PreTrainedModel,
    attention: TritonPagedAttention,
    positions: int,
    memory: DeviceMemory | None,
    *,
    fp8: bool = False,
) -> None:
    """Replace the layers in place. fp8: hold plain weights of the layers in 8-bit floats from now on.

    memory: given back after each layer, as a joined matrix does not fit into what its parts leave behind.
    """
    base = model.base_model
    layers = cast(nn.ModuleList, base.layers)
    for index in range(len(layers)):
        layers[index] = FusedDecoderLayer(layers[index], attention, fp8=fp8)
        if memory is not None:
            memory.release()
    base.norm = FusedNorm(cast(nn.Module, base.norm))
    base.rotary_emb = RotaryTable(cast(nn.Module, base.rotary_emb), positions, model.dtype, model.device)
    head = cast(nn.Module, model.lm_head)
    if Weight.of([head]) is not None:
        model.lm_head = Head(cast(nn.Linear, head))
