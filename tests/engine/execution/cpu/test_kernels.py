"""The C kernels against plain torch."""

import ctypes
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, apply_rotary_pos_emb

from tests.engine.execution.cpu.steps import scattered, step
from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention
from truss_model.engine.execution.cpu.layers import Product


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 13, 97, 200])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_linear(library: ctypes.CDLL, rows: int, weights: str) -> None:
    layers = [nn.Linear(38, outputs, bias=False) for outputs in (16, 48)]
    product = Product(library, layers, weights)  # type: ignore[arg-type]
    x, kept = torch.randn(rows, 38), torch.cat([layer.weight for layer in layers])
    if weights == "bfloat16":  # where the machine multiplies two bfloat16, nothing is rounded of such an x
        x, kept = x.bfloat16().float(), kept.bfloat16().float()
    torch.testing.assert_close(product(x), F.linear(x, kept), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33, 300])
def test_tiles_of_many_inputs(library: ctypes.CDLL, rows: int) -> None:
    layer = nn.Linear(64, 80, bias=False).bfloat16()
    x = torch.randn(rows, 64).bfloat16().float()
    product = Product(library, [layer], "bfloat16")
    torch.testing.assert_close(product(x), F.linear(x, layer.weight.float()), atol=1e-5, rtol=1e-5)


def test_the_machine_s_fastest_products_are_used(library: ctypes.CDLL) -> None:
    """A process that Linux refuses the tile registers would compute the same, several times slower."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    wanted = 2 if "amx_bf16" in flags and "avx512_bf16" in flags else 1 if "avx512_bf16" in flags else 0
    assert library.bfloat16_products() == wanted


@pytest.mark.parametrize("inputs", [2, 6, 38, 576])
def test_activations_are_at_most_rounded_to_bfloat16(library: ctypes.CDLL, inputs: int) -> None:
    layer = nn.Linear(inputs, 48, bias=False).bfloat16()
    x, kept = torch.randn(9, inputs), layer.weight.float()
    result = Product(library, [layer], "bfloat16")(x)
    rounded = F.linear(x.bfloat16().float(), kept)
    exact = F.linear(x, kept)
    assert min((result - wanted).abs().max() for wanted in (exact, rounded)) < 1e-5


@pytest.mark.parametrize("inputs", [70, 96])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_row_is_the_same_beside_any_other_rows(library: ctypes.CDLL, weights: str, inputs: int) -> None:
    product = Product(library, [nn.Linear(inputs, 80, bias=False)], weights)  # type: ignore[arg-type]
    x = torch.randn(64, inputs)
    alone = torch.cat([product(row[None]) for row in x])
    for rows in range(2, 65):
        assert torch.equal(product(x[:rows]), alone[:rows])


@pytest.mark.parametrize("rows", [1, 37, 600])
def test_norm_and_gate(library: ctypes.CDLL, rows: int) -> None:
    norm, x, added, y = MistralRMSNorm(64, 1e-5), *torch.randn(3, rows, 64)
    norm.weight.data = torch.randn(64)
    plain, total = norm(x), x + added
    weight = norm.weight.data_ptr()
    library.rms_norm(x.data_ptr(), None, weight, y.data_ptr(), rows, 64, 1e-5)
    torch.testing.assert_close(y, plain, atol=1e-5, rtol=1e-5)
    library.rms_norm(x.data_ptr(), added.data_ptr(), weight, added.data_ptr(), rows, 64, 1e-5)
    assert torch.equal(x, total)
    torch.testing.assert_close(added, norm(total), atol=1e-5, rtol=1e-5)
    gate_up = 3 * torch.randn(rows, 2 * 64)
    library.silu_mul(gate_up.data_ptr(), y.data_ptr(), rows, 64)
    torch.testing.assert_close(y, F.silu(gate_up[:, :64]) * gate_up[:, 64:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 20, 300])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 16), (9, 3, 64), (8, 1, 32), (32, 8, 128)])
def test_attention(library: ctypes.CDLL, window: int | None, heads: int, kv_heads: int, dim: int) -> None:
    config = MistralConfig(
        num_hidden_layers=1, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dim, hidden_size=64
    )
    spans = [(1, 1), (1, 300), (40, 300), (9, 9), (1, 17)]
    batch = step(scattered(len(spans), 20), spans)
    tables, slots, total = batch.tables, batch.slots, batch.slots.numel()
    ours, twin = (PagedKV(config, tables.numel(), 16, torch.float32, torch.device("cpu")) for _ in range(2))
    for kv in (ours, twin):
        torch.manual_seed(0)
        kv.keys.normal_()
        kv.values.normal_()
    qkv = torch.randn(total, heads + 2 * kv_heads, dim)
    angles = torch.randn(total, dim // 2).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()

    q, k, v = (part.transpose(0, 1)[None] for part in qkv.split([heads, kv_heads, kv_heads], 1))
    q, k = apply_rotary_pos_emb(q, k, cos[None], sin[None])
    expected = TorchPagedAttention(twin)(
        0, q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1), batch, dim**-0.5, window
    )

    shape = heads, kv_heads, dim
    keys, values = ours.keys[0].data_ptr(), ours.values[0].data_ptr()
    out = torch.empty(total, heads, dim)
    library.rope_append(qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), slots.data_ptr(), keys, values, total, *shape)
    assert library.paged_attention(
        qkv.data_ptr(), out.data_ptr(), keys, values, tables.data_ptr(), batch.starts.data_ptr(),
        batch.contexts.data_ptr(), *tables.shape, *shape, dim**-0.5, window or 0, 0.0, None,
    ) == 0  # fmt: skip
    torch.testing.assert_close(ours.keys, twin.keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.values, twin.values)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_loading_the_kernels_leaves_denormal_numbers_alone(library: ctypes.CDLL) -> None:
    assert library is not None
    assert float(torch.tensor(1e-310, dtype=torch.float64) * 1.5) > 0
