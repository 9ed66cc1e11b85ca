"""Attention of steps that have rows which are not in use, as recorded ones do: the kernels, and their twin."""

import dataclasses

import pytest
import torch

from tests.engine.execution.cuda.test_kernels import DEVICE, DIM, HEADS, KV_HEADS, PAGE, PAGES, batch_of, close, kv
from truss_model.engine.execution.attention import TorchPagedAttention
from truss_model.engine.execution.cuda.attention import GpuProperties, TritonPagedAttention

# Triton's interpreter under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")


@pytest.mark.usefixtures("memory_of_nan")
@pytest.mark.parametrize("sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize("window", [None, 11])
@pytest.mark.parametrize("processors", [1, 64], ids=["whole rows", "rows split"])
def test_rows_that_are_not_in_use_read_nothing_and_get_zeros(processors: int, window: int | None, sinks: bool) -> None:
    """Of five rows that may decode two do, of two prompts there is one, and the last row fills the step up."""
    used = batch_of([(8, 1), (150, 1), (20, 4)])
    tables = torch.full((8, used.tables.shape[1]), PAGES, dtype=torch.int32, device=DEVICE)
    tables[[0, 1, 5]] = used.tables
    batch = dataclasses.replace(
        used,
        slots=torch.cat([used.slots, torch.full((70,), PAGES * PAGE, device=DEVICE)]),
        tables=tables,
        starts=torch.tensor([0, 1, 2, 2, 2, 2, 6, 6, 76], dtype=torch.int32, device=DEVICE),
        contexts=torch.tensor([8, 150, 0, 0, 0, 20, 0, 0], dtype=torch.int32, device=DEVICE),
        longest=76,
        decodes=5,
    )
    torch.manual_seed(3)
    query, key, value = (torch.randn(76, heads, DIM, device=DEVICE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    sink = torch.randn(HEADS, device=DEVICE) if sinks else None
    card = GpuProperties(processors, large_shared_memory=True)
    kernels = TritonPagedAttention(kv(torch.float32), card, 1024)
    twin, plain = TorchPagedAttention(kv(torch.float32)), TorchPagedAttention(kv(torch.float32))
    for pages in (kernels.kv, twin.kv):
        pages.keys[:, PAGES], pages.values[:, PAGES] = float("nan"), float("nan")
    got, of_twin = (attention(1, query, key, value, batch, 0.3, window, None, sink) for attention in (kernels, twin))
    wanted = plain(1, query[:6], key[:6], value[:6], used, 0.3, window, None, sink)
    for made in (got, of_twin):
        close(made[:6], wanted, torch.float32)
        assert torch.equal(made[6:], torch.zeros_like(made[6:]))
