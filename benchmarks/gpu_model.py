"""Mistral-7B-v0.3 with random weights made on the device, what the device can do, and the floor that follows."""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

SEVEN_B: dict[str, Any] = {
    "vocab_size": 32768,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32768,
}
TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured on the device: bytes a second of a copy (read and written), operations a second of a product."""

    bytes_per_second: float
    flops_per_second: float


def make_model(device: torch.device, *, tiny: bool, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The same weights every time; no checkpoint, no tokenizer, no end of sequence."""
    shape = TINY if tiny else SEVEN_B
    config = MistralConfig(
        **shape,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=None,
        dtype=dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32),
    )
    with torch.device("meta"):
        model: Any = MistralForCausalLM(config)
    model = model.to(config.dtype).to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    rotary = type(model.model.rotary_emb)(config)
    model.model.rotary_emb = rotary.to(device)
    model.requires_grad_(False)
    made: PreTrainedModel = model
    return made


def ceilings(device: torch.device, *, tiny: bool) -> Ceilings:
    """One large copy, one large bf16 product of random matrices; the median of many."""
    size = 1 << (20 if tiny else 31)
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copied = 2 * size / seconds(lambda: target.copy_(source), device)
    n = 256 if tiny else 8192
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return Ceilings(copied, 2 * n**3 / seconds(lambda: a @ b, device))


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Median of one run of `work`, by device events where there are any."""
    for _ in range(3):
        work()
    times: list[float] = []
    for _ in range(repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def step_floor(config: Any, ceiling: Ceilings, rows: int, context: float, weight_bytes: float = 2.0) -> float:
    """Seconds of one decode step if every weight and key is read once, or the arithmetic takes longer than that.

    weight_bytes: of a weight in the layers; embedding rows that are looked up count for nothing, the head as stored.
    """
    hidden, heads, kv = config.hidden_size, config.num_attention_heads * config.head_dim, config.num_key_value_heads
    layer = hidden * (2 * heads + 2 * kv * config.head_dim) + 3 * hidden * config.intermediate_size
    head = hidden * config.vocab_size
    stored = config.dtype.itemsize
    read = config.num_hidden_layers * layer * weight_bytes + head * stored
    read += rows * context * 2 * config.num_hidden_layers * kv * config.head_dim * stored
    operations = 2 * rows * (config.num_hidden_layers * layer + head)
    return float(max(read / ceiling.bytes_per_second, operations / ceiling.flops_per_second))


def free(device: torch.device) -> None:
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # compiled forwards hold on to their model and to graphs' memory
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
