"""Chooses, by measuring on the card, how each kind of product of one token is done: torch's or one of our tilings."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from truss_model.engine.execution.cuda.layers import FusedDecoderLayer
from truss_model.engine.execution.cuda.vector import TILINGS, Tiling
from truss_model.engine.execution.cuda.weights import Head, Weight

logger = logging.getLogger(__name__)

Use = Callable[[torch.Tensor], object]


def tune(model: PreTrainedModel) -> None:
    """Set the tilings of all fused layers and of the head; nothing where there are none."""
    layers = [layer for layer in cast(nn.ModuleList, model.base_model.layers) if isinstance(layer, FusedDecoderLayer)]
    if not layers or model.device.type != "cuda":
        return
    began = time.monotonic()
    hidden = int(model.config.hidden_size)
    stream = torch.zeros(1, hidden, dtype=model.dtype, device=model.device)

    def adding(layer: FusedDecoderLayer, name: str) -> Use:
        projection = getattr(layer, name)
        return lambda x: projection(x, stream)

    kinds: dict[str, tuple[list[Weight | None], list[Use]]] = {
        "qkv": ([layer.qkv.weight for layer in layers], [layer.qkv for layer in layers]),
        "out": ([layer.out.weight for layer in layers], [adding(layer, "out") for layer in layers]),
        "gate_up": ([layer.gate_up.weight for layer in layers], [layer.gate_up.gated for layer in layers]),
        "down": ([layer.down.weight for layer in layers], [adding(layer, "down") for layer in layers]),
    }
    if isinstance(model.lm_head, Head):
        kinds["head"] = ([model.lm_head.weight] * 4, [model.lm_head] * 4)
    for name, (weights, uses) in kinds.items():
        joined = [weight for weight in weights if weight is not None]
        if len(joined) == len(weights):
            _choose(name, joined, uses, model.dtype)
    logger.info("Products of one token measured in %.1f s.", time.monotonic() - began)


def _choose(name: str, weights: Sequence[Weight], uses: Sequence[Use], dtype: torch.dtype) -> None:
    """Time all layers' weights in turn, which are more than the cache holds."""
    matrix = weights[0].matrix
    x = torch.randn(1, matrix.shape[1], device=matrix.device, dtype=dtype)
    times: dict[Tiling | None, float] = {}
    # A product of 8-bit floats would quantise the token as well: for one token that saves nothing.
    options: tuple[Tiling | None, ...] = TILINGS if weights[0].scales is not None else (None, *TILINGS)
    for tiling in options:
        for weight in weights:
            weight.tiling = tiling
        times[tiling] = _milliseconds(lambda: [use(x) for use in uses])
    best = min(times, key=lambda tiling: times[tiling])
    for weight in weights:
        weight.tiling = best
    rate = len(weights) * matrix.nbytes / times[best] / 1e6
    torchs = rate * times[best] / times[None] if None in times else float("nan")
    logger.info("%s: %s, %.0f GB/s (torch %.0f).", name, best or "torch", rate, torchs)


def _milliseconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Of one run, replayed from a graph so that the host's pace does not count; the best of several."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    graph.replay()
    best = float("inf")
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return best
