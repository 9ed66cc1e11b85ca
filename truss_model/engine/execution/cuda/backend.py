"""Makes a model ready for an NVIDIA GPU: kernels in the place of its layers where they fit, recordings of its steps."""

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from transformers import PreTrainedModel

from truss_model.engine.execution.attention import PagedKV, TorchPagedAttention
from truss_model.engine.execution.backend import OWN_LAYERS, Backend, compile_layers
from truss_model.engine.execution.cuda.attention import LEAST_CAPABILITY, GpuProperties, TritonPagedAttention, usable
from truss_model.engine.execution.cuda.decode import block_for, rows_by_splits
from truss_model.engine.execution.cuda.replace_layers import fits, replace_layers
from truss_model.engine.execution.cuda.sampling import TritonSampling
from truss_model.engine.execution.cuda.sampling_check import CheckedSampling
from truss_model.engine.execution.cuda.tuning import tune
from truss_model.engine.execution.device_memory import DeviceMemory, device_memory
from truss_model.engine.execution.limits import Limits
from truss_model.engine.settings import EngineSettings

logger = logging.getLogger(__name__)


def cuda_backend(
    model: PreTrainedModel,
    limits: Limits,
    settings: EngineSettings,
    card: GpuProperties | None = None,
    memory: DeviceMemory | None = None,
    *,
    fp8: bool = False,
) -> Backend:
    """fp8: hold the layers' weights in 8-bit floats. card and its memory: for tests, which have none.

    The layers are replaced before the KV memory is taken: what they leave behind belongs to it.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        raise ValueError(f"the model is spread over {len(devices)} devices and the engine serves from one GPU")
    if card is None and torch.cuda.get_device_capability(model.device) >= LEAST_CAPABILITY:
        card = GpuProperties.of(model.device)
    memory = memory or device_memory(model.device)
    kv = PagedKV(model.config, 0, limits.page_size, model.dtype, model.device, transposed_keys=False)
    if card is None or not usable(kv, model.config.num_attention_heads):
        logger.warning("Attention by plain torch: the kernels need compute capability 8.0 and heads of 16, 32, 64, ...")
        kv.resize(limits.pages)
        return Backend(kv, TorchPagedAttention(kv), asynchronous=True, memory=memory)
    paged = TritonPagedAttention(kv, card, limits.max_model_len)
    fused = not settings.compile and fits(model)
    if fused:
        replace_layers(model, paged, limits.max_model_len, memory, fp8=fp8)
    elif settings.compile:
        compile_layers(model)
    kv.resize(limits.pages)
    layers = "fused" if fused else "compiled" if settings.compile else OWN_LAYERS
    logger.info("CUDA kernels: layers %s", layers)
    sampling = CheckedSampling(TritonSampling(), model.config.vocab_size, model.dtype, model.device)

    def tune_all() -> None:
        tune(model)
        sampling.check()

    kv_heads, block = kv.values.shape[2], block_for(kv.values.shape[-1], kv.values.dtype.itemsize)
    return Backend(
        kv, paged, asynchronous=True, capture=Recorder(), tune=tune_all, layers=layers, memory=memory,
        sample=sampling,
        warm_rows=rows_by_splits(limits.max_rows, kv_heads, card.processors, limits.max_model_len, block),
    )  # fmt: skip


class Recorder:
    """Captures CUDA graphs that share their memory, as only one of them runs at a time.

    Later ones do not share that of graphs that are gone: torch refuses a pool that was given back, in part or whole.
    """

    def __init__(self) -> None:
        self._graphs = WeakSet[torch.cuda.CUDAGraph]()

    def __call__(self, work: Callable[[], object]) -> Callable[[], object]:
        work()  # kernels are compiled and libraries initialised outside of the recording
        torch.cuda.synchronize()
        pool: Any = next((graph.pool() for graph in self._graphs), None) or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
        self._graphs.add(graph)
        return graph.replay
