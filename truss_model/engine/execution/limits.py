"""Settings + device -> the numbers the engine runs with."""

from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedModel

from truss_model.engine.attention import kv_shape
from truss_model.engine.settings import EngineSettings
from truss_model.errors import RequestError

CPU_KV_FLOOR, CPU_KV_CEILING = 1 << 30, 4 << 30  # bytes; more a CPU cannot read in bearable time per step
CPU_TOKEN_BUDGET, CUDA_TOKEN_BUDGET = 256, 2048
CPU_ROWS, CUDA_ROWS = 64, 256
GRAPHS_AND_LIBRARIES = 512 << 20  # bytes on a GPU
LONG_PREFILL_STEPS = 4  # a prompt that fills so many steps by itself is long


@dataclass(frozen=True, slots=True)
class Limits:
    """max_model_len in tokens of prompt and answer; never more than all pages hold."""

    max_model_len: int
    max_rows: int
    token_budget: int
    long_prefill: int
    page_size: int
    pages: int

    def check_length(self, prompt: int, max_tokens: int) -> None:
        """Raise RequestError for what cannot be served."""
        if prompt == 0:
            raise RequestError("The prompt is empty.", param="messages")
        if prompt + max_tokens > self.max_model_len:
            raise RequestError(
                f"This model's maximum context length is {self.max_model_len} tokens. However, you requested "
                f"{prompt + max_tokens} tokens ({prompt} in the messages, {max_tokens} in the completion). "
                "Please reduce the length of the messages or completion.",
                param="messages",
                code="context_length_exceeded",
            )


def limits(model: PreTrainedModel, settings: EngineSettings) -> Limits:
    """Fill in what the settings leave open. Raises ValueError when not even one page fits."""
    cuda = model.device.type == "cuda"
    rows = settings.max_rows or (CUDA_ROWS if cuda else CPU_ROWS)
    budget = max(settings.token_budget or (CUDA_TOKEN_BUDGET if cuda else CPU_TOKEN_BUDGET), rows)
    longest = settings.max_model_len or int(model.config.max_position_embeddings)
    page_bytes = kv_bytes_per_token(model) * settings.page_size
    if settings.kv_cache_bytes is not None:
        memory = settings.kv_cache_bytes
    elif cuda:
        memory = _free_memory(model, settings.kv_cache_fraction, _workspace(model, budget, rows))
    else:
        useful = min(max(CPU_KV_FLOOR, 2 * longest * kv_bytes_per_token(model)), CPU_KV_CEILING)
        memory = min(useful, int(psutil.virtual_memory().available * settings.kv_cache_fraction / 2))
    # More pages than every row at full length needs, and as many again for prefixes, would never be read.
    pages = min(memory // page_bytes, 2 * rows * -(-longest // settings.page_size))
    if pages < 1:
        raise ValueError(f"kv_cache_bytes: {memory} bytes hold no page; one takes {page_bytes} bytes")
    return Limits(
        max_model_len=min(longest, pages * settings.page_size),
        max_rows=rows,
        token_budget=budget,
        long_prefill=LONG_PREFILL_STEPS * budget,
        page_size=settings.page_size,
        pages=pages,
    )


def kv_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of keys and values of one token in all layers. On the CPU they are kept in float32."""
    heads, dim = kv_shape(model.config)
    item = 4 if model.device.type == "cpu" else model.dtype.itemsize
    return int(2 * model.config.num_hidden_layers * heads * dim * item)


def _workspace(model: PreTrainedModel, budget: int, rows: int) -> int:
    """Bytes that the largest steps need beside weights and pages: activations, logits and their copies, recordings."""
    config = model.config
    wide = 2 * getattr(config, "intermediate_size", 4 * config.hidden_size) + 8 * config.hidden_size
    activations = 2 * budget * wide * model.dtype.itemsize
    return int(activations + rows * config.vocab_size * 40 + GRAPHS_AND_LIBRARIES)


def _free_memory(model: PreTrainedModel, fraction: float, workspace: int) -> int:
    torch.cuda.empty_cache()  # what loading left behind counts as free
    free, _ = torch.cuda.mem_get_info(model.device)
    return min(int(free * fraction), free - workspace)
