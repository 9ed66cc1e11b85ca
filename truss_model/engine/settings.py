"""Settings of the engine. None: derived from the device when the engine starts."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """max_model_len: tokens of prompt and answer together. token_budget: tokens of one forward, decode rows first.

    kv_cache_bytes overrides kv_cache_fraction (of the memory that is free after loading the weights).
    max_queue: requests that may wait; max_queue_seconds: how long each may wait.
    step_timeout_seconds: a step that takes longer has hung, and the engine's process is replaced.
    cuda_kernels off: plain torch on a GPU. self_check: compare the engine with the untouched model at the start.
    """

    max_model_len: int | None = None
    max_rows: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_fraction: float = 0.9
    page_size: int = 16
    token_budget: int | None = None
    max_queue: int = 256
    max_queue_seconds: float = 30.0
    step_timeout_seconds: float = 300.0
    prefix_caching: bool = True
    compile: bool = False
    cuda_graphs: bool = True
    cuda_kernels: Literal["auto", "off"] = "auto"
    self_check: bool = True
