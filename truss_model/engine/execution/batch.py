"""One step as the model's layers see it: which tokens, at which positions, over which pages."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.scheduling.scheduler import StepPlan


@dataclass(slots=True)
class StepBatch:
    """Sequences packed one after another, without padding. T tokens of R rows; W is the longest block table.

    tokens, positions: int64 [1, T]. slots: int64 [T], page * page_size + offset each token's KV goes to.
    tables: int32 [R, W]. starts: int32 [R + 1], first token of each row. contexts: int32 [R], tokens of each row
    including this step's. sampled: int64 [S], the tokens whose logits are needed: those to sample from, then those to
    score prompts with. longest: most tokens of one row in T. decodes: number of rows at the front that have one token
    each. spans: (first token, tokens, context) of each row, for the host, if it knows.
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
    spans: list[tuple[int, int, int]] | None = None


def pack(plan: StepPlan, tables: npt.NDArray[np.int32], page_size: int, device: torch.device) -> StepBatch:
    """Make the tensors of a step; one copy to the device each, not waited for. tables: of the chunks, [R, W]."""
    chunks = plan.chunks
    counts = np.array([chunk.length for chunk in chunks], np.int64)
    begins = np.array([chunk.start for chunk in chunks], np.int64)
    starts = np.zeros(len(chunks) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    tokens: list[int] = []
    for row, start, length, _ in chunks:
        tokens += row.tokens[start : start + length]
    owner = np.repeat(np.arange(len(chunks)), counts)
    positions = np.arange(len(tokens)) - starts[owner] + begins[owner]
    slots = tables[owner, positions // page_size].astype(np.int64) * page_size + positions % page_size
    sampled = starts[1:][[chunk.samples for chunk in chunks]] - 1
    scored = [starts[i] + p - chunk.start for i, chunk in enumerate(chunks) for p in chunk.scored]
    several = np.flatnonzero(counts > 1)
    return StepBatch(
        tokens=to_device(np.array([tokens], np.int64), device),
        positions=to_device(positions[None], device),
        slots=to_device(slots, device),
        tables=to_device(tables, device),
        starts=to_device(starts.astype(np.int32), device),
        contexts=to_device((begins + counts).astype(np.int32), device),
        sampled=to_device(np.concatenate([sampled, np.array(scored, np.int64)]) if scored else sampled, device),
        longest=int(counts.max()),
        decodes=int(several[0]) if len(several) else len(chunks),
        spans=list(zip(starts[:-1].tolist(), counts.tolist(), (begins + counts).tolist(), strict=True)),
    )


def to_device(array: "np.ndarray[Any, Any]", device: torch.device) -> torch.Tensor:
    """To the device, not waited for; torch keeps page-locked memory until the copy is done."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu" or tensor.numel() == 0:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
