"""Settings + device -> the numbers the engine runs with. On a GPU the pages are counted last, by measuring the rest."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psutil
from transformers import PretrainedConfig, PreTrainedModel

from truss_model.engine.execution.device_memory import DeviceMemory, device_memory
from truss_model.engine.settings import EngineSettings
from truss_model.errors import LoadError

CPU_KV_FLOOR, CPU_KV_CEILING = 1 << 30, 4 << 30  # bytes; more a CPU cannot read in bearable time per step
CPU_TOKEN_BUDGET, CUDA_TOKEN_BUDGET = 256, 2048
CPU_ROWS, CUDA_ROWS = 64, 256
UNSEEN = 512 << 20  # bytes on a GPU beside torch's blocks: recordings in the driver, libraries, what blocks round up to
LONG_PREFILL_STEPS = 4  # a prompt that fills so many steps by itself is long

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """max_model_len in tokens of prompt and answer; never more than all pages hold."""

    max_model_len: int
    max_rows: int
    token_budget: int
    long_prefill: int
    page_size: int
    pages: int


def limits(model: PreTrainedModel, settings: EngineSettings, memory: DeviceMemory | None = None) -> Limits:
    """Fill in what the settings leave open. memory: of the model's GPU, by default the one that it is on.

    Without `kv_cache_bytes` the pages on a GPU are those of one full step, until `measured_limits` has seen one run.
    Raises ValueError when not even one page fits.
    """
    memory = memory or device_memory(model.device)
    rows = settings.max_rows or (CPU_ROWS if memory is None else CUDA_ROWS)
    budget = max(settings.token_budget or (CPU_TOKEN_BUDGET if memory is None else CUDA_TOKEN_BUDGET), rows)
    longest = settings.max_model_len or int(model.config.max_position_embeddings)
    token_bytes = kv_bytes_per_token(model)
    if settings.kv_cache_bytes is not None:
        size = settings.kv_cache_bytes
    elif memory is not None:
        longest = min(longest, max(memory.free() // token_bytes, 1))
        size = (budget + settings.page_size) * token_bytes
    else:
        useful = min(max(CPU_KV_FLOOR, 2 * longest * token_bytes), CPU_KV_CEILING)
        size = min(useful, int(psutil.virtual_memory().available * settings.kv_cache_fraction / 2))
    pages = _pages(size, token_bytes, settings.page_size, rows, longest)
    measured = memory is not None and settings.kv_cache_bytes is None
    return Limits(
        max_model_len=longest if measured else min(longest, pages * settings.page_size),
        max_rows=rows,
        token_budget=budget,
        long_prefill=LONG_PREFILL_STEPS * budget,
        page_size=settings.page_size,
        pages=pages,
    )


def measured_limits(
    model: PreTrainedModel,
    chosen: Limits,
    fraction: float,
    memory: DeviceMemory,
    steps: Sequence[Callable[[], object]],
    kept: int,
    resize: Callable[[int], None],
) -> Limits:
    """Run the largest steps over few pages, give all memory that they do not need to pages, and say how many those are.

    fraction: of the free memory at most. kept: bytes that will be taken beside the steps. resize: of the KV, in pages.
    Raises LoadError when not even one page fits.
    """
    needed = sum(memory.peak(step) for step in steps) + kept + UNSEEN
    resize(0)
    free = memory.free()
    size = min(int(free * fraction), free - needed)
    page_size = chosen.page_size
    if size < kv_bytes_per_token(model) * page_size:
        raise LoadError(
            f"No memory is left for the KV cache: {free / 1e9:.1f} GB are free after loading, and steps need up to "
            f"{needed / 1e9:.1f} GB. Set model_metadata.engine.max_rows or token_budget lower, quantization to int8, "
            "or choose a larger accelerator under resources in config.yaml."
        )
    pages = _pages(size, kv_bytes_per_token(model), page_size, chosen.max_rows, chosen.max_model_len)
    logger.info(
        "KV cache: %.2f GB, %d tokens. %.2f GB are free after loading, and steps need %.2f GB at most.",
        size / 1e9, pages * page_size, free / 1e9, needed / 1e9,
    )  # fmt: skip
    resize(pages)
    return replace(chosen, pages=pages, max_model_len=min(chosen.max_model_len, pages * page_size))


def _pages(size: int, token_bytes: int, page_size: int, rows: int, longest: int) -> int:
    # More pages than every row at full length needs, and as many again for prefixes, would never be read.
    pages = min(size // (token_bytes * page_size), 2 * rows * -(-longest // page_size))
    if pages < 1:
        raise ValueError(f"kv_cache_bytes: {size} bytes hold no page; one takes {token_bytes * page_size} bytes")
    return pages


def kv_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of keys and values of one token in all layers. On the CPU they are kept in float32."""
    heads, dim = kv_shape(model.config)
    item = 4 if model.device.type == "cpu" else model.dtype.itemsize
    return int(2 * model.config.num_hidden_layers * heads * dim * item)


def kv_shape(config: PretrainedConfig) -> tuple[int, int]:
    """(kv heads, head dimension) of a model."""
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads, int(dim)
