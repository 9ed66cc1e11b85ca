"""Attention in plain torch: what it holds at a time is bounded, however different the rows are."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import MistralConfig

from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention, groups_of_like_length
from truss_model.engine.execution.batch import StepBatch

HEADS, KV_HEADS, DIM, PAGE = 8, 2, 16, 16


class Largest(TorchDispatchMode):
    """The most entries that one new storage has."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in tensors((args, kwargs))}
        made = function(*args, **(kwargs or {}))
        for tensor in tensors(made):
            if tensor.untyped_storage()._cdata not in given:
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return made


def tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def batch_of(rows: list[tuple[int, int]], *, for_host: bool) -> StepBatch:
    """rows: (context, new tokens); the pages of one row follow those of the row before."""
    width = max(-(-context // PAGE) for context, _ in rows)
    tables = torch.zeros(len(rows), width, dtype=torch.int32)
    slots, spans, used, start = [], [], 0, 0
    for row, (context, count) in enumerate(rows):
        pages = -(-context // PAGE)
        tables[row, :pages] = torch.arange(used, used + pages)
        slots += [used * PAGE + at for at in range(context - count, context)]
        spans.append((start, count, context))
        used, start = used + pages, start + count
    counts = torch.tensor([count for _, count in rows])
    return StepBatch(
        tokens=torch.zeros(1, start, dtype=torch.int64),
        positions=torch.zeros(1, start, dtype=torch.int64),
        slots=torch.tensor(slots),
        tables=tables,
        starts=torch.cat([torch.zeros(1), counts.cumsum(0)]).int(),
        contexts=torch.tensor([context for context, _ in rows], dtype=torch.int32),
        sampled=torch.zeros(0, dtype=torch.int64),
        longest=int(counts.max()),
        decodes=0,
        spans=spans if for_host else None,
    )


def attend(rows: list[tuple[int, int]], workspace: int, *, for_host: bool = True) -> tuple[torch.Tensor, int]:
    """The result, and the most entries held in one tensor."""
    config = MistralConfig(
        num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=DIM, hidden_size=64
    )
    torch.manual_seed(0)
    kv = PagedKV(config, sum(-(-context // PAGE) for context, _ in rows), PAGE, torch.float32, torch.device("cpu"))
    kv.keys.normal_()
    kv.values.normal_()
    batch = batch_of(rows, for_host=for_host)
    query, key, value = (torch.randn(batch.slots.numel(), heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    attention = TorchPagedAttention(kv)
    attention.WORKSPACE = workspace  # type: ignore[misc]
    with Largest() as largest:
        made = attention(0, query, key, value, batch, 0.25, 100)
    return made, largest.entries


@pytest.mark.parametrize("for_host", [True, False], ids=["spans of the host", "spans of the device"])
def test_one_long_row_beside_many_short_ones_is_not_what_all_are_padded_to(for_host: bool) -> None:
    rows = [(5 + i % 7, 1) for i in range(60)] + [(4000, 1)]
    made, entries = attend(rows, 1 << 26, for_host=for_host)
    assert entries <= 4000 * KV_HEADS * DIM  # the long row's own keys; padded, 61 times as many
    assert torch.allclose(made, attend(rows, 1, for_host=for_host)[0], atol=1e-5)


def test_a_long_prompt_is_scored_in_parts() -> None:
    rows = [(40, 1), (600, 500), (9, 9)]
    made, entries = attend(rows, 64 * HEADS * 600)
    assert entries < 500 * 600
    assert torch.allclose(made, attend(rows, 1 << 26)[0], atol=1e-5)


def test_rows_of_like_length_are_padded_together() -> None:
    lengths = [(100, 0), (7, 1), (8, 2), (90, 3), (9, 4)]
    assert list(groups_of_like_length(lengths, 1000)) == [[1, 2, 4], [0, 3]]
    assert list(groups_of_like_length(lengths, 20)) == [[1, 2], [4], [3], [0]]
