"""Makes a model ready for an NVIDIA GPU: kernels in the place of its layers where they fit, recordings of its steps."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from truss_model.engine.attention import PagedAttention, PagedKV, TorchPagedAttention
from truss_model.engine.backend import Backend, compile_layers
from truss_model.engine.cuda.attention import LEAST_CAPABILITY, Card, TritonPagedAttention, usable
from truss_model.engine.cuda.swap import fits, swap
from truss_model.engine.cuda.tuning import tune
from truss_model.engine.limits import Limits
from truss_model.engine.settings import EngineSettings

logger = logging.getLogger(__name__)


def cuda_backend(
    model: PreTrainedModel, limits: Limits, settings: EngineSettings, card: Card | None = None, *, fp8: bool = False
) -> Backend:
    """fp8: hold the layers' weights in 8-bit floats. card: for tests, which have none."""
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        raise ValueError(f"the model is spread over {len(devices)} devices and the engine serves from one GPU")
    if card is None and torch.cuda.get_device_capability(model.device) >= LEAST_CAPABILITY:
        card = Card.of(model.device)
    kv = PagedKV(model.config, limits.pages, limits.page_size, model.dtype, model.device, transposed_keys=False)
    if card is None or not usable(kv, model.config.num_attention_heads):
        logger.warning("Attention by plain torch: the kernels need compute capability 8.0 and heads of 16, 32, 64, ...")
        attention: PagedAttention = TorchPagedAttention(kv)
        return Backend(kv, attention, asynchronous=True)
    paged = TritonPagedAttention(kv, card, limits.max_model_len)
    fused = not settings.compile and fits(model)
    if fused:
        swap(model, paged, limits.max_model_len, fp8=fp8)
    elif settings.compile:
        compile_layers(model)
    logger.info("Fused layers: %s; %d KV pages of %d tokens", fused, limits.pages, limits.page_size)
    return Backend(kv, paged, asynchronous=True, capture=Recorder(), tune=lambda: tune(model))


class Recorder:
    """Captures CUDA graphs that share their memory, as only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Callable[[], object]) -> Callable[[], object]:
        work()  # kernels are compiled and libraries initialised outside of the recording
        torch.cuda.synchronize()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph.replay
