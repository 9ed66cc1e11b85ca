"""Attention over the pages of the KV cache, registered with transformers' AttentionInterface as "paged".

The model's own forward calls it once a layer; the step's batch comes along as a keyword. Knows no rows.
"""

from itertools import pairwise
from typing import Protocol, cast

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AttentionInterface, PretrainedConfig

from truss_model.engine.batch import StepBatch, there

IMPLEMENTATION = "paged"


class PagedKV:
    """The KV memory. keys, values: [layers, pages, kv_heads, page_size, head_dim].

    transposed_keys: [..., head_dim, page_size] for keys, as the CPU's kernels read them. The page after the last one
    belongs to no row: padding is written there.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        transposed_keys: bool = True,
    ) -> None:
        heads, dim = kv_shape(config)
        self.page_size = page_size
        self.transposed_keys = transposed_keys
        self.padding_page = pages
        shape = (config.num_hidden_layers, pages + 1, heads, page_size, dim)
        key_shape = (*shape[:3], dim, page_size) if transposed_keys else shape
        # Filled, not zeros(): memory that is not there shows at the start, and the process does not grow later.
        self.keys = torch.empty(key_shape, dtype=dtype, device=device).fill_(0)
        self.values = torch.empty(shape, dtype=dtype, device=device).fill_(0)

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole pages in every layer, all sources read before the first target is written."""
        sources, targets = (there(np.array(side), self.keys.device) for side in zip(*pairs, strict=True))
        self.keys[:, targets] = self.keys[:, sources]
        self.values[:, targets] = self.values[:, sources]


def kv_shape(config: PretrainedConfig) -> tuple[int, int]:
    """(kv heads, head dimension) of a model."""
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads, int(dim)


class PagedAttention(Protocol):
    """Appends a step's keys and values to the pages and attends. query [T, H, D], key and value [T, kv_heads, D]."""

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: StepBatch,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Return [T, H, D]."""


class TorchPagedAttention:
    """The plain torch form, twin of every kernel: decode rows in one padded batch, prompts one by one."""

    def __init__(self, kv: PagedKV) -> None:
        self.kv = kv

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: StepBatch,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        keys, values, size = self.kv.keys[layer], self.kv.values[layer], self.kv.page_size
        if self.kv.transposed_keys:
            keys = keys.transpose(-1, -2)
        pages, offsets = batch.slots // size, batch.slots % size
        keys[pages, :, offsets] = key.to(keys.dtype)
        values[pages, :, offsets] = value.to(values.dtype)
        if batch.longest == 1:
            return self._rows(query[:, :, None], keys, values, batch.tables, batch.contexts, scaling, window)[:, :, 0]
        starts = batch.starts.tolist()
        out = torch.empty_like(query)
        for i, (begin, end) in enumerate(pairwise(starts)):
            rows = query[None, begin:end].transpose(1, 2)
            table, context = batch.tables[i : i + 1], batch.contexts[i : i + 1]
            out[begin:end] = self._rows(rows, keys, values, table, context, scaling, window)[0].transpose(0, 1)
        return out

    @staticmethod
    def _rows(
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        tables: torch.Tensor,
        contexts: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """query [R, H, q, D], the last q tokens of each context -> [R, H, q, D]."""
        rows, width = tables.shape
        _, heads, size, dim = keys.shape
        k = keys[tables].permute(0, 2, 1, 3, 4).reshape(rows, heads, width * size, dim).to(query.dtype)
        v = values[tables].permute(0, 2, 1, 3, 4).reshape(rows, heads, width * size, dim).to(query.dtype)
        at = torch.arange(width * size, device=query.device)
        own = contexts[:, None] - query.shape[2] + torch.arange(query.shape[2], device=query.device)
        seen = at <= own[..., None]
        if window is not None:
            seen &= at > own[..., None] - window
        return F.scaled_dot_product_attention(
            query, k, v, attn_mask=seen[:, None], scale=scaling, enable_gqa=query.shape[1] != heads
        )


def _paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    *,
    paged: PagedAttention,
    batch: StepBatch,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: query [1, H, T, D], key and value [1, kv_heads, T, D] -> [1, T, H, D]."""
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    layer = cast(int, module.layer_idx)
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    return paged(layer, q, k, v, batch, scale, sliding_window)[None], None


# No mask function is registered: transformers then makes none, as causality and windows come from positions and tables.
AttentionInterface.register(IMPLEMENTATION, _paged_attention)
