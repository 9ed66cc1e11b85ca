"""From token ids to logits of a packed model, without the Python that its own forward has around the layers."""

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel

from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.cpu.decoder import PackedDecoder
from truss_model.engine.execution.cpu.layers import PackedLinear
from truss_model.engine.execution.llama import STATIC_ROPES, rotary_table

PLAIN = (LlamaForCausalLM, MistralForCausalLM)  # no scale, cap or norm before the layers or behind the head


class PackedForward:
    """Embedding, rotary table, layers, head."""

    def __init__(self, model: PreTrainedModel, positions: int) -> None:
        """model: one that replace_layers has changed. Every token's position is below `positions`."""
        base = model.base_model
        self._embedding = cast(nn.Embedding, base.embed_tokens).weight.detach()
        self._cos, self._sin = rotary_table(cast(nn.Module, base.rotary_emb), positions, self._embedding)
        self._decoder = cast(PackedDecoder, cast(nn.ModuleList, base.layers)[0])
        self._head = cast(PackedLinear, model.lm_head)

    def __call__(self, batch: StepBatch) -> torch.Tensor:
        """Logits [S, vocab]."""
        positions = batch.positions[0]
        x = F.embedding(batch.tokens[0], self._embedding)
        cos, sin = self._cos.index_select(0, positions), self._sin.index_select(0, positions)
        return self._head.forward(self._decoder.run(batch, x, cos, sin).index_select(0, batch.sampled))


def forward_of(model: PreTrainedModel, positions: int) -> PackedForward | None:
    """For a model that replace_layers has changed; None where the model's own forward does more."""
    rotary = getattr(model.base_model, "rotary_emb", None)
    plain = type(model) in PLAIN and type(getattr(model.base_model, "embed_tokens", None)) is nn.Embedding
    return PackedForward(model, positions) if plain and getattr(rotary, "rope_type", None) in STATIC_ROPES else None
