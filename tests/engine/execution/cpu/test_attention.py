"""The C attention that other families' own layers call, against its torch twin."""

import ctypes

import pytest
import torch
from transformers import MistralConfig

from tests.engine.execution.cpu.steps import scattered, step
from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention
from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.cpu.attention import KernelPagedAttention

HEADS, KV_HEADS, DIM = 6, 2, 32
CONFIG = MistralConfig(
    num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=DIM, hidden_size=64
)


def mixed() -> StepBatch:
    """Two rows that decode, two with several tokens."""
    return step(scattered(4, 20), [(1, 1), (1, 300), (40, 300), (9, 9)])


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_soft_cap_sinks_and_windows(
    library: ctypes.CDLL, window: int | None, softcap: float | None, sinks: bool
) -> None:
    torch.manual_seed(0)
    batch = mixed()
    ours, twin = (PagedKV(CONFIG, batch.tables.numel(), 16, torch.float32, torch.device("cpu")) for _ in range(2))
    twin.keys.copy_(ours.keys.normal_())
    twin.values.copy_(ours.values.normal_())
    query, key, value = (
        3 * torch.randn(heads, batch.slots.numel(), DIM).transpose(0, 1) for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    sink = 3 * torch.randn(HEADS) if sinks else None
    got = KernelPagedAttention(library, ours)(0, query, key, value, batch, 0.2, window, softcap, sink)
    wanted = TorchPagedAttention(twin)(0, query, key, value, batch, 0.2, window, softcap, sink)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.keys, twin.keys) and torch.equal(ours.values, twin.values)


def test_the_twin_attends_as_transformers_eager_form_does() -> None:
    """One row that begins, no pages before: the plain softmax of gpt-oss and of Gemma 2."""
    torch.manual_seed(0)
    count = 7
    batch = mixed()
    batch.slots, batch.tables = torch.arange(count), torch.zeros(1, 1, dtype=torch.int32)
    batch.starts, batch.contexts = torch.tensor([0, count]), torch.tensor([count])
    kv = PagedKV(CONFIG, 1, 16, torch.float32, torch.device("cpu"))
    query, key, value = (torch.randn(count, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    sink = torch.randn(HEADS)
    got = TorchPagedAttention(kv)(0, query, key, value, batch, 0.2, None, 2.0, sink)
    wide_key, wide_value = (part.repeat_interleave(HEADS // KV_HEADS, 1) for part in (key, value))
    scores = 2.0 * torch.tanh(torch.einsum("qhd,khd->hqk", query, wide_key) * 0.2 / 2.0)
    scores = scores.masked_fill(torch.ones(count, count).triu(1).bool(), float("-inf"))
    weights = torch.cat([scores, sink.view(-1, 1, 1).expand(-1, count, 1)], -1).softmax(-1)[..., :-1]
    torch.testing.assert_close(got, torch.einsum("hqk,khd->qhd", weights, wide_value), atol=1e-5, rtol=1e-5)
