"""One step as the model's layers see it: which tokens, at which positions, over which pages."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from truss_model.engine.scheduler import StepPlan


@dataclass(slots=True)
class StepBatch:
    """Sequences packed one after another, without padding. T tokens of R rows; W is the longest block table.

    tokens, positions: int64 [1, T]. slots: int64 [T], page * page_size + offset each token's KV goes to.
    tables: int32 [R, W]. starts: int32 [R + 1], first token of each row. contexts: int32 [R], tokens of each row
    including this step's. sampled: int64 [S], the tokens whose logits are needed. longest: most tokens of one row in T.
    decodes: so many rows at the front have one token each.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    tables: torch.Tensor
    starts: torch.Tensor
    contexts: torch.Tensor
    sampled: torch.Tensor
    longest: int
    decodes: int


def pack(plan: StepPlan, page_size: int, device: torch.device) -> StepBatch:
    """Make the tensors of a step; one host-to-device copy each, not waited for."""
    chunks = plan.chunks
    counts = np.fromiter((chunk.count for chunk in chunks), np.int64, len(chunks))
    begins = np.fromiter((chunk.start for chunk in chunks), np.int64, len(chunks))
    starts = np.zeros(len(chunks) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    total = int(starts[-1])
    owner = np.repeat(np.arange(len(chunks)), counts)
    positions = np.arange(total) - starts[owner] + begins[owner]
    tables = np.zeros((len(chunks), max(len(chunk.row.pages) for chunk in chunks)), np.int32)
    tokens = np.empty(total, np.int64)
    for i, chunk in enumerate(chunks):
        row = chunk.row
        tables[i, : len(row.pages)] = row.pages
        tokens[starts[i] : starts[i + 1]] = row.tokens[chunk.start : chunk.start + chunk.count]
    slots = tables[owner, positions // page_size].astype(np.int64) * page_size + positions % page_size
    sampled = starts[1:][np.fromiter((chunk.samples for chunk in chunks), np.bool_, len(chunks))] - 1
    several = np.flatnonzero(counts > 1)
    return StepBatch(
        tokens=there(tokens[None], device),
        positions=there(positions[None], device),
        slots=there(slots, device),
        tables=there(tables, device),
        starts=there(starts.astype(np.int32), device),
        contexts=there((begins + counts).astype(np.int32), device),
        sampled=there(sampled, device),
        longest=int(counts.max()),
        decodes=int(several[0]) if len(several) else len(chunks),
    )


def there(array: "np.ndarray[Any, Any]", device: torch.device) -> torch.Tensor:
    """To the device, not waited for; torch keeps page-locked memory until the copy is done."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu" or tensor.numel() == 0:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
