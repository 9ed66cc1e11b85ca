"""One step as the model's layers see it: which tokens, at which positions, over which pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from truss_model.engine.scheduling.scheduler import Chunk, StepPlan

Numbers = npt.NDArray[np.int64]


@dataclass(slots=True)
class StepBatch:
    """Sequences packed one after another, without padding. T tokens of R rows; W is the longest block table.

    tokens, positions: int64 [1, T]. slots: int64 [T], page * page_size + offset each token's KV goes to.
    tables: int32 [R, W]. starts: int32 [R + 1], first token of each row. contexts: int32 [R], tokens of each row
    including this step's; 0 for a row that is not in use: attention makes zeros of its tokens, if it has any, and reads
    no pages. sampled: int64 [S], the tokens whose logits are needed: those to sample from, then those to score prompts
    with. longest: no row has more tokens in T. decodes: number of rows at the front that have one token each, or none
    if not in use. spans: (first token, tokens, context) of each row, for the host, if it knows.
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


@dataclass(frozen=True, slots=True)
class Layout:
    """The tokens of a plan one after another, for the host: T tokens of R chunks.

    tokens: T, PENDING where the host does not know one. counts, begins: int64 [R], tokens of each chunk and the first
    one's position. starts: int64 [R + 1]. owner: int64 [T], each token's chunk. positions: int64 [T]. decodes: number
    of chunks at the front that have one token each.
    """

    tokens: list[int]
    counts: Numbers
    begins: Numbers
    starts: Numbers
    owner: Numbers
    positions: Numbers
    decodes: int

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Self:
        counts = np.array([chunk.length for chunk in chunks], np.int64)
        begins = np.array([chunk.start for chunk in chunks], np.int64)
        starts = np.zeros(len(chunks) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        tokens: list[int] = []
        for row, start, length, _ in chunks:
            tokens += row.tokens[start : start + length]
        owner = np.repeat(np.arange(len(chunks)), counts)
        positions = np.arange(len(tokens)) - starts[owner] + begins[owner]
        return cls(tokens, counts, begins, starts, owner, positions, leading_singles(chunks))


def leading_singles(chunks: Sequence[Chunk]) -> int:
    """Number of chunks at the front that have one token each."""
    return next((i for i, chunk in enumerate(chunks) if chunk.length > 1), len(chunks))


def pack(plan: StepPlan, tables: npt.NDArray[np.int32], page_size: int, device: torch.device) -> StepBatch:
    """Make the tensors of a step; one copy to the device each, not waited for. tables: of the chunks, [R, W]."""
    chunks, at = plan.chunks, Layout.of(plan.chunks)
    contexts = at.begins + at.counts
    slots = tables[at.owner, at.positions // page_size].astype(np.int64) * page_size + at.positions % page_size
    sampled = at.starts[1:][[chunk.samples for chunk in chunks]] - 1
    scored = [at.starts[i] + p - chunk.start for i, chunk in enumerate(chunks) for p in chunk.scored]
    return StepBatch(
        tokens=to_device(np.array([at.tokens], np.int64), device),
        positions=to_device(at.positions[None], device),
        slots=to_device(slots, device),
        tables=to_device(tables, device),
        starts=to_device(at.starts.astype(np.int32), device),
        contexts=to_device(contexts.astype(np.int32), device),
        sampled=to_device(np.concatenate([sampled, np.array(scored, np.int64)]) if scored else sampled, device),
        longest=int(at.counts.max()),
        decodes=at.decodes,
        spans=list(zip(at.starts[:-1].tolist(), at.counts.tolist(), contexts.tolist(), strict=True)),
    )


def with_newest(tokens: torch.Tensor, source: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
    """Each token [T], or the one of `newest` that its source [T] names, if it is not -1."""
    return torch.where(source >= 0, newest.index_select(0, source.clamp_min(0)), tokens)


def to_device(array: "np.ndarray[Any, Any]", device: torch.device) -> torch.Tensor:
    """To the device, not waited for; torch keeps page-locked memory until the copy is done."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu" or tensor.numel() == 0:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
