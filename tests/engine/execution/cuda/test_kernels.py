"""Every Triton kernel against plain torch: on the GPU where there is one, else in Triton's interpreter."""

from collections.abc import Iterable

import pytest
import torch
from torch.nn import functional as F
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, apply_rotary_pos_emb

from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention
from truss_model.engine.execution.batch import StepBatch
from truss_model.engine.execution.cuda.append import rotate_append
from truss_model.engine.execution.cuda.attention import GpuProperties, TritonPagedAttention
from truss_model.engine.execution.cuda.decode import BLOCK, rows_by_splits, splits_for
from truss_model.engine.execution.cuda.dequantize import MOST_TOKENS, widening_product
from truss_model.engine.execution.cuda.elementwise import rms_norm, silu_mul
from truss_model.engine.execution.cuda.fp8 import quantize_tokens, quantize_weight, scaled_product
from truss_model.engine.execution.cuda.vector import Tiling, multiply

# Triton's interpreter under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEADS, KV_HEADS, DIM, PAGE, PAGES = 4, 2, 16, 8, 40
TILING = Tiling(4, 64, 4, 2)
# Triton's interpreter multiplies matrices of bfloat16 as if they held integers.
HALF = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16


def close(got: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    error = (got.float() - wanted.float()).norm() / wanted.float().norm()
    assert error < (1e-5 if dtype == torch.float32 else 1e-2)


def kv(dtype: torch.dtype, *, transposed: bool = False) -> PagedKV:
    config = MistralConfig(
        num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=DIM, hidden_size=64
    )
    made = PagedKV(config, PAGES, PAGE, dtype, DEVICE, transposed_keys=transposed)
    torch.manual_seed(1)
    values = torch.randn(made.values.shape).to(dtype).to(DEVICE)
    keys = torch.randn(made.values.shape).to(dtype).to(DEVICE)
    made.values.copy_(values)
    made.keys.copy_(keys.transpose(-1, -2) if transposed else keys)
    return made


def batch_of(rows: list[tuple[int, int]]) -> StepBatch:
    """rows: (context, new tokens) each; pages are dealt out in a scattered order."""
    free = torch.randperm(PAGES, generator=torch.Generator().manual_seed(2)).tolist()
    width = max(-(-context // PAGE) for context, _ in rows)
    tables = torch.zeros(len(rows), width, dtype=torch.int32)
    slots, positions, starts = [], [], [0]
    for i, (context, count) in enumerate(rows):
        for page in range(-(-context // PAGE)):
            tables[i, page] = free.pop()
        for at in range(context - count, context):
            slots.append(int(tables[i, at // PAGE]) * PAGE + at % PAGE)
            positions.append(at)
        starts.append(starts[-1] + count)
    counts = [count for _, count in rows]
    return StepBatch(
        tokens=torch.zeros(1, starts[-1], dtype=torch.int64, device=DEVICE),
        positions=torch.tensor([positions], device=DEVICE),
        slots=torch.tensor(slots, device=DEVICE),
        tables=tables.to(DEVICE),
        starts=torch.tensor(starts, dtype=torch.int32, device=DEVICE),
        contexts=torch.tensor([context for context, _ in rows], dtype=torch.int32, device=DEVICE),
        sampled=torch.tensor([], dtype=torch.int64, device=DEVICE),
        longest=max(counts),
        decodes=next((i for i, count in enumerate(counts) if count > 1), len(counts)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("window", [None, 11])
@pytest.mark.parametrize(
    ("rows", "processors"),
    [
        pytest.param([(1, 1), (17, 1), (70, 1)], 1, id="decode"),
        pytest.param([(1, 1), (9, 1), (150, 1)], 64, id="decode, split"),
        pytest.param([(5, 5), (40, 40)], 1, id="prompts"),
        pytest.param([(70, 35), (12, 1), (33, 2)], 1, id="later chunks"),
        pytest.param([(8, 1), (45, 1), (64, 50), (20, 4)], 4, id="decode beside prompts"),
    ],
)
def test_attention(rows: list[tuple[int, int]], processors: int, window: int | None, dtype: torch.dtype) -> None:
    batch = batch_of(rows)
    total = batch.slots.numel()
    torch.manual_seed(3)
    query, key, value = (
        torch.randn(heads, total, DIM).to(dtype).to(DEVICE).transpose(0, 1) for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    kernels = TritonPagedAttention(kv(dtype), GpuProperties(processors, large_shared_memory=True), 1024)
    twin = TorchPagedAttention(kv(dtype))
    got = kernels(1, query, key, value, batch, 0.3, window)
    wanted = twin(1, query, key, value, batch, 0.3, window)
    close(got, wanted, dtype)
    assert torch.equal(kernels.kv.keys, twin.kv.keys)
    assert torch.equal(kernels.kv.values, twin.kv.values)


@pytest.mark.parametrize(("softcap", "sinks"), [(2.0, False), (None, True), (2.0, True)], ids=["cap", "sinks", "both"])
@pytest.mark.parametrize(
    ("rows", "processors"),
    [
        pytest.param([(1, 1), (70, 1)], 1, id="decode"),
        pytest.param([(9, 1), (150, 1)], 64, id="decode, split"),
        pytest.param([(8, 1), (64, 50), (20, 4)], 4, id="decode beside prompts"),
    ],
)
def test_soft_cap_and_sinks(rows: list[tuple[int, int]], processors: int, softcap: float | None, sinks: bool) -> None:
    batch = batch_of(rows)
    torch.manual_seed(3)
    query, key, value = (
        3 * torch.randn(heads, batch.slots.numel(), DIM, device=DEVICE).transpose(0, 1)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    sink = torch.randn(HEADS, device=DEVICE) if sinks else None
    kernels = TritonPagedAttention(kv(torch.float32), GpuProperties(processors, large_shared_memory=True), 1024)
    twin = TorchPagedAttention(kv(torch.float32))
    got = kernels(1, query, key, value, batch, 0.3, 11, softcap, sink)
    close(got, twin(1, query, key, value, batch, 0.3, 11, softcap, sink), torch.float32)


def test_what_lies_behind_a_context_does_not_matter() -> None:
    """Pages are not wiped: another request's numbers, even NaN, stand in what is left of a row's last page."""
    batch = batch_of([(9, 1), (30, 30)])
    pages = kv(torch.float32)
    for row, context in enumerate([9, 30]):
        last = int(batch.tables[row, context // PAGE])
        pages.keys[:, last, :, context % PAGE :] = float("nan")
        pages.values[:, last, :, context % PAGE :] = float("nan")
    pages.keys[:, 0], pages.values[:, 0] = float("nan"), float("nan")
    query, key, value = (torch.randn(31, heads, DIM, device=DEVICE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    if 0 in batch.tables[0].tolist()[:2] + batch.tables[1].tolist():
        raise AssertionError("page 0 must belong to nobody here")
    attention = TritonPagedAttention(pages, GpuProperties(1, large_shared_memory=True), 1024)
    assert attention(0, query, key, value, batch, 0.3, None).isfinite().all()


def test_both_layouts_of_the_twin_agree() -> None:
    batch = batch_of([(8, 1), (20, 12)])
    torch.manual_seed(3)
    query, key, value = (torch.randn(13, heads, DIM, device=DEVICE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    plain = TorchPagedAttention(kv(torch.float32))(0, query, key, value, batch, 0.3, None)
    turned = TorchPagedAttention(kv(torch.float32, transposed=True))(0, query, key, value, batch, 0.3, None)
    assert torch.equal(plain, turned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_and_append(dtype: torch.dtype) -> None:
    """Ten query heads fill no whole program; rows are views into a joined product."""
    heads, kv_heads = 10, 2
    batch = batch_of([(8, 1), (20, 4)])
    torch.manual_seed(4)
    joined = torch.randn(5, (heads + 2 * kv_heads) * DIM).to(dtype).to(DEVICE)
    query, key, value = (
        part.view(5, -1, DIM) for part in joined.split([heads * DIM, kv_heads * DIM, kv_heads * DIM], -1)
    )
    angles = torch.outer(torch.arange(32.0), 0.1 ** torch.arange(DIM // 2)).to(DEVICE)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    full = [torch.cat([table, table], -1)[batch.positions[0]] for table in (cos, sin)]
    rotated_query, rotated_key = apply_rotary_pos_emb(query, key, *full)
    pages = kv(dtype)
    rotate_append(query, key, value.clone(), (cos, sin), batch.positions, batch.slots, pages.keys[0], pages.values[0])
    close(query, rotated_query, dtype)
    page, offset = batch.slots // PAGE, batch.slots % PAGE
    close(pages.keys[0][page, :, offset], rotated_key, dtype)
    assert torch.equal(pages.values[0][page, :, offset], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_gate(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    norm = MistralRMSNorm(100, eps=1e-5).to(dtype).to(DEVICE)
    norm.weight.data.uniform_(0.5, 2)
    x = (3 * torch.randn(3, 100)).to(dtype).to(DEVICE)
    close(rms_norm(x, norm.weight, 1e-5), norm(x), dtype)
    joined = torch.randn(3, 3000).to(dtype).to(DEVICE)
    gate, up = joined.split(1500, -1)
    close(silu_mul(gate, up), F.silu(gate) * up, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "fp8"])
def test_one_token_times_a_matrix(dtype: torch.dtype, scaled: bool) -> None:
    """Sizes that fill no whole tile; then the norm before, the gate behind, the residual added."""
    torch.manual_seed(6)
    x = torch.randn(1, 100).to(dtype).to(DEVICE)
    matrix = torch.randn(70, 100).to(dtype).to(DEVICE)
    held, scales = quantize_weight(matrix) if scaled else (matrix, None)
    weight = held.float() if scales is None else held.float() * scales[:, None]
    product = x.float() @ weight.t()
    close(multiply(x, held, TILING, scales=scales), product, dtype)
    gain = torch.rand(100).to(dtype).to(DEVICE) + 0.5
    normed = F.rms_norm(x.float(), (100,), gain.float(), 1e-5)
    close(multiply(x, held, TILING, scales=scales, norm=(gain, 1e-5)), normed @ weight.t(), dtype)
    gate, up = (normed @ weight.t()).split(35, -1)
    close(multiply(x, held, TILING, scales=scales, norm=(gain, 1e-5), gated=True), F.silu(gate) * up, dtype)
    stream = torch.randn(1, 70).to(dtype).to(DEVICE)
    wanted = stream.float() + product
    assert multiply(x, held, TILING, scales=scales, add_to=stream) is stream
    close(stream, wanted, dtype)


def test_quantised_tokens_and_weights() -> None:
    torch.manual_seed(7)
    x = torch.randn(3, 96).to(torch.bfloat16).to(DEVICE)
    x[1] *= 1000
    held, scales = quantize_tokens(x)
    assert held.dtype == torch.float8_e4m3fn
    assert held.float().abs().amax(1).tolist() == [448.0] * 3
    # Three bits of mantissa; the interpreter cuts where the card rounds.
    assert ((held.float() * scales - x.float()).norm(dim=1) / x.float().norm(dim=1)).max() < 0.1
    weight = torch.randn(32, 96).to(torch.bfloat16).to(DEVICE)
    got = scaled_product(x, *quantize_weight(weight)).float()
    wanted = x.float() @ weight.float().t()
    assert ((got - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 0.15


@pytest.mark.parametrize(("processors", "longest"), [(132, 32768), (80, 32768), (58, 4096), (108, 512)])
def test_the_rows_run_at_the_start_ask_for_every_kernel_that_any_number_of_rows_can(
    processors: int, longest: int
) -> None:
    def kernels(rows: Iterable[int]) -> set[tuple[int, int]]:
        return {splits_for(count, 8, processors, longest, BLOCK) for count in rows}

    warmed = rows_by_splits(256, 8, processors, longest, BLOCK)
    assert kernels(warmed) == kernels(range(1, 257))
    assert len(warmed) < 10


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("page", [16, 32])
@pytest.mark.parametrize("group", [4, 8])
def test_joins_of_prefill_and_decode_by_heads_that_share_keys_and_pages(
    group: int, page: int, window: int | None
) -> None:
    """A prompt in two chunks, the second beside rows that decode, and then its own decoding over what both wrote."""
    config = MistralConfig(
        num_hidden_layers=1, num_attention_heads=group, num_key_value_heads=1, head_dim=DIM, hidden_size=64
    )
    torch.manual_seed(8)
    made = [PagedKV(config, 12, page, torch.float32, DEVICE, transposed_keys=False) for _ in range(2)]
    kernels = TritonPagedAttention(made[0], GpuProperties(4, large_shared_memory=True), 1024)
    twin = TorchPagedAttention(made[1])
    for rows in ([(37, 37)], [(5, 1), (53, 16)], [(6, 1), (54, 1)]):
        batch = joined_batch(rows, page)
        total = batch.slots.numel()
        query, key, value = (torch.randn(total, heads, DIM, device=DEVICE) for heads in (group, 1, 1))
        got = kernels(0, query, key, value, batch, 0.3, window)
        close(got, twin(0, query, key, value, batch, 0.3, window), torch.float32)


def joined_batch(rows: list[tuple[int, int]], page: int) -> StepBatch:
    """rows: (context, new tokens); the last row is the same in every step, on pages of odd numbers."""
    tables = torch.zeros(len(rows), 4, dtype=torch.int32)
    slots, starts = [], [0]
    for i, (context, count) in enumerate(rows):
        tables[i] = torch.arange(4) * 2 + 1 if i == len(rows) - 1 else torch.arange(4) * 2
        slots += [int(tables[i, at // page]) * page + at % page for at in range(context - count, context)]
        starts.append(starts[-1] + count)
    counts = [count for _, count in rows]
    return StepBatch(
        tokens=torch.zeros(1, starts[-1], dtype=torch.int64, device=DEVICE),
        positions=torch.zeros(1, starts[-1], dtype=torch.int64, device=DEVICE),
        slots=torch.tensor(slots, device=DEVICE),
        tables=tables.to(DEVICE),
        starts=torch.tensor(starts, dtype=torch.int32, device=DEVICE),
        contexts=torch.tensor([context for context, _ in rows], dtype=torch.int32, device=DEVICE),
        sampled=torch.tensor([], dtype=torch.int64, device=DEVICE),
        longest=max(counts),
        decodes=next((i for i, count in enumerate(counts) if count > 1), len(counts)),
    )


@pytest.mark.parametrize("held", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("tokens", [1, 3, MOST_TOKENS, MOST_TOKENS + 1])
def test_tokens_times_8_bit_weights_that_are_widened(tokens: int, held: torch.dtype) -> None:
    torch.manual_seed(9)
    x = torch.randn(tokens, 200).to(HALF).to(DEVICE)
    weight = torch.randint(-127, 128, (70, 200)).float().to(DEVICE).to(held)
    scales = torch.rand(70, device=DEVICE) / 100
    close(widening_product(x, weight, scales), x.float() @ (weight.float() * scales[:, None]).t(), HALF)
