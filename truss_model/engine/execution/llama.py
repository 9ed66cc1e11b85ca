"""Llama's way of building a decoder layer, which Mistral shares: what the kernels of every device can replace."""

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP, MistralRMSNorm

ATTENTIONS = (LlamaAttention, MistralAttention)
MLPS = (LlamaMLP, MistralMLP)
NORMS = (LlamaRMSNorm, MistralRMSNorm)
ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
STATIC_ROPES = ("default", "linear", "llama3", "yarn")  # types whose frequencies do not depend on the sequence


def llama_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers; none when any of them is built otherwise, or activates by anything but SiLU."""
    if getattr(model.config, "hidden_act", None) not in ("silu", "swish"):
        return []
    layers = [cast(nn.Module, layer) for layer in getattr(model.base_model, "layers", [])]
    known = all(
        type(layer.self_attn) in ATTENTIONS
        and type(layer.mlp) in MLPS
        and type(layer.input_layernorm) in NORMS
        and type(layer.post_attention_layernorm) in NORMS
        for layer in layers
    )
    return layers if known and type(getattr(model.base_model, "norm", None)) in NORMS else []


def sliding_window(layer: nn.Module) -> int | None:
    """In tokens. Mistral's attention takes it from its configuration; Llama's takes none, whatever stands there."""
    attention = cast(nn.Module, layer.self_attn)
    return getattr(attention.config, "sliding_window", None) if type(attention) is MistralAttention else None


def linears(layer: nn.Module) -> list[nn.Module]:
    """All seven of a layer."""
    parts = ((layer.self_attn, ATTENTION_LINEARS), (layer.mlp, MLP_LINEARS))
    return [cast(nn.Module, getattr(part, name)) for part, names in parts for name in names]


def rotary_table(rotary: nn.Module, positions: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of positions 0 .. positions - 1, [positions, D] each, of a rotary embedding of STATIC_ROPES.

    like: a tensor of their dtype and device.
    """
    cos, sin = rotary(like[:0], torch.arange(positions, device=like.device)[None])
    return cos[0], sin[0]
