"""PagedAttention in C for models whose layers stay transformers' own: float32 inside, over float32 pages."""

import ctypes

import torch

from truss_model.engine.execution.attention import PagedKV
from truss_model.engine.execution.batch import StepBatch

PAGE_SIZE = 16  # kernels.c
DIM_STEP = 16


class KernelPagedAttention:
    """Over pages [pages, kv_heads, D, page] of keys. TorchPagedAttention is its twin."""

    def __init__(self, library: ctypes.CDLL, kv: PagedKV) -> None:
        self._library = library
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
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.kv.check(key, value)
        qkv = torch.cat([part.float() for part in (query, key, value)], 1)
        shape = query.shape[1], key.shape[1], query.shape[2]
        pages = self.kv.keys[layer].data_ptr(), self.kv.values[layer].data_ptr()
        total, (rows, width) = batch.slots.numel(), batch.tables.shape
        self._library.rope_append(qkv.data_ptr(), None, None, batch.slots.data_ptr(), *pages, total, *shape)
        out = torch.empty(query.shape)
        last = sinks.float().contiguous() if sinks is not None else None
        failed = self._library.paged_attention(
            qkv.data_ptr(), out.data_ptr(), *pages, batch.tables.data_ptr(), batch.starts.data_ptr(),
            batch.contexts.data_ptr(), rows, width, *shape, scaling, window or 0, softcap or 0.0,
            last.data_ptr() if last is not None else None, False,
        )  # fmt: skip
        if failed:
            raise MemoryError("no memory for the attention scores")
        return out.to(query.dtype)


def usable(heads: tuple[int, int], page_size: int, query_heads: int) -> bool:
    """Whether the kernels can serve `heads`: kv heads and head dimension of a model."""
    kv_heads, dim = heads
    return page_size == PAGE_SIZE and dim % DIM_STEP == 0 and query_heads % kv_heads == 0
