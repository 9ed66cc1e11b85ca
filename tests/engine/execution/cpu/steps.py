"""Steps over pages of 16 tokens in a scattered order."""

import torch

from truss_model.engine.execution.batch import StepBatch


def scattered(rows: int, width: int) -> torch.Tensor:
    """Block tables [rows, width] of pages in no order."""
    return torch.randperm(rows * width).view(rows, width).int()


def step(tables: torch.Tensor, spans: list[tuple[int, int]]) -> StepBatch:
    """spans: (tokens, context with them) of each row."""
    counts = torch.tensor([count for count, _ in spans])
    position = torch.cat([torch.arange(context - count, context) for count, context in spans])
    owner = torch.repeat_interleave(torch.arange(len(spans)), counts)
    return StepBatch(
        tokens=torch.zeros(1, len(position), dtype=torch.long),
        positions=position[None],
        slots=tables[owner, position // 16].long() * 16 + position % 16,
        tables=tables,
        starts=torch.tensor([0, *counts.cumsum(0).tolist()], dtype=torch.int32),
        contexts=torch.tensor([context for _, context in spans], dtype=torch.int32),
        sampled=torch.tensor([0]),
        longest=int(counts.max()),
        decodes=next((row for row, (count, _) in enumerate(spans) if count > 1), len(spans)),
    )
