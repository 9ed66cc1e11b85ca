"""The C kernels against plain torch."""

import ctypes
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, apply_rotary_pos_emb

from tests.engine.execution.cpu.steps import scattered, step
from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention
from truss_model.engine.execution.cpu.layers import Product, pack_in_turn


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 6, 7, 13, 97, 200])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_linear(library: ctypes.CDLL, rows: int, weights: str) -> None:
    layers = [nn.Linear(38, outputs, bias=False) for outputs in (16, 48)]
    product = Product(library, layers, weights)  # type: ignore[arg-type]
    x, kept = torch.randn(rows, 38), torch.cat([layer.weight for layer in layers])
    if weights == "bfloat16":  # where the machine multiplies two bfloat16, nothing is rounded of such an x
        x, kept = x.bfloat16().float(), kept.bfloat16().float()
    torch.testing.assert_close(product(x), F.linear(x, kept), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 33, 300])
def test_tiles_of_many_inputs(library: ctypes.CDLL, rows: int) -> None:
    layer = nn.Linear(64, 80, bias=False).bfloat16()
    x = torch.randn(rows, 64).bfloat16().float()
    product = Product(library, [layer], "bfloat16")
    torch.testing.assert_close(product(x), F.linear(x, layer.weight.float()), atol=1e-5, rtol=1e-5)


def test_the_machine_s_fastest_products_are_used(library: ctypes.CDLL) -> None:
    """A process that Linux refuses the tile registers, and a compiler that knows none, compute the same, several times
    slower: the machines and images that run the tests must not be such."""
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


def made(rows: int, columns: int, *, rounded: bool) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.bfloat16 if rounded else torch.float32)


@pytest.mark.parametrize("rows", [1, 37, 600])
@pytest.mark.parametrize("rounded", [False, True])
def test_norm(library: ctypes.CDLL, rows: int, rounded: bool) -> None:
    if rounded and not library.bfloat16_products():
        pytest.skip("nothing is rounded where nothing multiplies bfloat16")
    norm, x, added, y = MistralRMSNorm(80, 1e-5), *torch.randn(2, rows, 80), made(rows, 80, rounded=rounded)
    norm.weight.data = torch.randn(80)
    plain, total = norm(x), x + added
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=0.004 if rounded else 1e-5)
    weight = norm.weight.data_ptr()
    library.rms_norm(x.data_ptr(), None, weight, y.data_ptr(), rows, 80, 1e-5, rounded)
    close(y.float(), plain)
    library.rms_norm(x.data_ptr(), added.data_ptr(), weight, y.data_ptr(), rows, 80, 1e-5, rounded)
    assert torch.equal(x, total)
    close(y.float(), norm(total))


@pytest.mark.parametrize("rows", [1, 16, 37, 100, 300])
@pytest.mark.parametrize("inputs", [38, 64])
@pytest.mark.parametrize("way", ["float32", "bfloat16", "rounded"])
def test_gated_products(library: ctypes.CDLL, rows: int, inputs: int, way: str) -> None:
    rounded, weights = way == "rounded", "float32" if way == "float32" else "bfloat16"
    if rounded and not library.bfloat16_products():
        pytest.skip("nothing is rounded where nothing multiplies bfloat16")
    gate, up = (nn.Linear(inputs, 48, bias=False) for _ in range(2))
    for linear in (gate, up):
        linear.weight.data = linear.weight.data.bfloat16().float()
    x, y = made(rows, inputs, rounded=rounded), made(rows, 48, rounded=rounded)
    packed = pack_in_turn(gate, up, weights)  # type: ignore[arg-type]
    library.gated_rows(x.data_ptr(), rounded, packed.data_ptr(), y.data_ptr(), rows, inputs, 48, weights == "bfloat16")
    expected = F.silu(gate(x.float())) * up(x.float())
    torch.testing.assert_close(y.float(), expected, atol=1e-5, rtol=0.004 if rounded else 1e-5)


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
        batch.contexts.data_ptr(), *tables.shape, *shape, dim**-0.5, window or 0, 0.0, None, False,
    ) == 0  # fmt: skip
    torch.testing.assert_close(ours.keys, twin.keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.values, twin.values)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_loading_the_kernels_leaves_denormal_numbers_alone(library: ctypes.CDLL) -> None:
    assert library is not None
    assert float(torch.tensor(1e-310, dtype=torch.float64) * 1.5) > 0
