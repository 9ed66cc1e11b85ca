"""PagedAttention on an NVIDIA GPU: appends, then one kernel for rows that decode and one for prompts."""

from dataclasses import dataclass
from typing import Self

import torch

from truss_model.engine.execution.attention import PagedKV
from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.cuda.append import append
from truss_model.engine.execution.cuda.decode import decode_attention
from truss_model.engine.execution.cuda.prefill import prefill_attention

LEAST_CAPABILITY = (8, 0)  # what Triton supports
# The A100 (8.0) has as much, but there the registers of large tiles overflow.
LARGE_SHARED_MEMORY = {(9, 0), (10, 0), (10, 3)}


@dataclass(frozen=True, slots=True)
class GpuProperties:
    """What the kernels' shapes depend on."""

    processors: int
    large_shared_memory: bool

    @classmethod
    def of(cls, device: torch.device) -> Self:
        capability = torch.cuda.get_device_capability(device)
        return cls(torch.cuda.get_device_properties(device).multi_processor_count, capability in LARGE_SHARED_MEMORY)


class TritonPagedAttention:
    """Over pages [pages, kv_heads, page, D]. TorchPagedAttention is its twin."""

    def __init__(self, kv: PagedKV, card: GpuProperties, longest: int) -> None:
        """longest: no context is longer; kernels are compiled for it once, at the start."""
        self.kv = kv
        self.card = card
        self.longest = longest

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
        append(key, value, batch.slots, self.kv.keys[layer], self.kv.values[layer])
        return self.attend(layer, query, batch, scaling, window, softcap, sinks)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        batch: StepBatch,
        scaling: float,
        window: int | None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Over what is in the pages already. query [T, H, D] -> [T, H, D]."""
        keys, values = self.kv.keys[layer], self.kv.values[layer]
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        single, tables, contexts = batch.decodes, batch.tables, batch.contexts
        if single:
            decode_attention(
                query[:single], keys, values, tables[:single], contexts[:single], scaling, window, out[:single],
                softcap=softcap, sinks=sinks, processors=self.card.processors, longest=self.longest,
            )  # fmt: skip
        if single < len(contexts):
            prefill_attention(
                query, keys, values, tables[single:], batch.starts[single:], contexts[single:], batch.longest, scaling,
                window, out, softcap=softcap, sinks=sinks, large=self.card.large_shared_memory,
            )  # fmt: skip
        return out


def usable(kv: PagedKV, query_heads: int) -> bool:
    """Whether the kernels can serve a model's heads: dimensions they can tile."""
    dim = kv.values.shape[-1]
    return dim >= 16 and dim & (dim - 1) == 0 and query_heads % kv.values.shape[2] == 0
