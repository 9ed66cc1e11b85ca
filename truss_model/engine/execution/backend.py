"""What a device makes of a model: its KV memory, its attention, its kernels in the model's place. One per engine."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from truss_model.engine.attention import PagedAttention, PagedKV, TorchPagedAttention
from truss_model.engine.cpu.build import kernels
from truss_model.engine.cpu.swap import fits, swap
from truss_model.engine.limits import Limits
from truss_model.engine.settings import EngineSettings

logger = logging.getLogger(__name__)

Capture = Callable[[Callable[[], object]], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Backend:
    """`asynchronous`: steps run beside the host; the next can be launched before the last one's tokens are read.

    `capture` makes a replay of device work that always does the same, or is None where that cannot be. `tune` chooses
    between kernels by measurement; called once, before anything is captured.
    """

    kv: PagedKV
    attention: PagedAttention
    asynchronous: bool = False
    capture: Capture | None = None
    tune: Callable[[], None] = field(default=lambda: None)


MakeBackend = Callable[[PreTrainedModel, Limits, EngineSettings], Backend]


def make_backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    """Make the model ready for its device; its modules may be replaced in place."""
    return _cuda(model, limits, settings) if model.device.type == "cuda" else _cpu(model, limits, settings)


def _cuda(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    # Triton comes with torch's CUDA builds alone.
    from truss_model.engine.cuda.backend import cuda_backend

    return cuda_backend(model, limits, settings)


def _cpu(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    library = kernels() if not settings.compile and fits(model, limits.page_size) else None
    dtype = torch.float32 if library is not None else model.dtype
    kv = PagedKV(model.config, limits.pages, limits.page_size, dtype, model.device)
    if library is not None:
        swap(library, model, kv, "bfloat16" if model.dtype == torch.bfloat16 else "float32")
        cast(nn.Module, model).float()
    elif settings.compile:
        compile_layers(model)
    logger.info("CPU kernels: %s; %d KV pages of %d tokens", library is not None, limits.pages, limits.page_size)
    return Backend(kv, TorchPagedAttention(kv))


def compile_layers(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Have torch compile the MLPs and norms at their first use; attention over pages is not for its eyes."""
    parts = ("MLP", "RMSNorm")
    for module in model.base_model.modules():
        if type(module).__name__.endswith(parts):
            module.compile(dynamic=True, backend=backend)
