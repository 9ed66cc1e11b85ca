"""Makes a model ready for the CPU: kernels in C in the place of its layers where they fit, plain torch elsewhere."""

import dataclasses
import logging
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from truss_model.engine.execution.attention import PagedKV
from truss_model.engine.execution.backend import OWN_LAYERS, Backend, compile_layers, plain_backend
from truss_model.engine.execution.cpu.attention import KernelPagedAttention, usable
from truss_model.engine.execution.cpu.build import kernels
from truss_model.engine.execution.cpu.forward import forward_of
from truss_model.engine.execution.cpu.replace_layers import fits, replace_layers
from truss_model.engine.execution.cpu.sampling import KernelSampling
from truss_model.engine.execution.limits import Limits, kv_shape
from truss_model.engine.settings import EngineSettings

logger = logging.getLogger(__name__)

# By what kernels.c: bfloat16_products() says.
PRODUCTS = ("float32", "dot products of bfloat16", "AMX tiles of bfloat16")


def cpu_backend(model: PreTrainedModel, limits: Limits, settings: EngineSettings) -> Backend:
    """Raises nothing: what the kernels do not fit, torch computes. The KV memory is float32 under the kernels."""
    library = kernels()
    if library is None or not usable(kv_shape(model.config), limits.page_size, model.config.num_attention_heads):
        backend = plain_backend(model, limits, settings)
        if settings.compile:
            compile_layers(model)
        logger.info("CPU kernels: none; %d KV pages of %d tokens", limits.pages, limits.page_size)
        return dataclasses.replace(backend, layers="compiled" if settings.compile else backend.layers)
    kv = PagedKV(model.config, limits.pages, limits.page_size, torch.float32, model.device)
    attention = KernelPagedAttention(library, kv)
    layers, precision, products, forward = OWN_LAYERS, None, PRODUCTS[0], None
    if settings.compile:
        compile_layers(model)
        layers = "compiled"
    elif fits(model, limits.page_size):
        if model.dtype == torch.bfloat16 and (way := library.bfloat16_products()):
            precision, products = torch.bfloat16, PRODUCTS[way]
        replace_layers(library, model, kv, "bfloat16" if model.dtype == torch.bfloat16 else "float32")
        cast(nn.Module, model).float()
        forward = forward_of(model, limits.max_model_len)
        layers = "fused"
    logger.info(
        "CPU kernels: layers %s, products in %s; %d KV pages of %d tokens",
        layers, products, limits.pages, limits.page_size,
    )  # fmt: skip
    return Backend(kv, attention, layers=layers, forward=forward, sample=KernelSampling(library), precision=precision)
