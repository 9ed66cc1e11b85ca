"""Limits of the engine. None means: found from the device when the engine starts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """max_model_len: tokens of prompt and answer together. token_budget: tokens of one forward, decode rows first.

    kv_cache_bytes wins over kv_cache_fraction (of the memory that is free once the weights are there).
    max_queue counts requests that wait; max_queue_seconds is how long one may.
    """

    max_model_len: int | None = None
    max_rows: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_fraction: float = 0.9
    page_size: int = 16
    token_budget: int | None = None
    max_queue: int = 256
    max_queue_seconds: float = 30.0
    prefix_caching: bool = True
    compile: bool = False
    cuda_graphs: bool = True
