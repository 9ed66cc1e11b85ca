"""What an engine tells of itself."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the start, and what is the case now."""

    rows_running: int
    requests_waiting: int
    pages_free: int
    pages_total: int
    steps: int
    prefill_tokens: int
    cached_tokens: int
    generated_tokens: int
    preemptions: int
    faults: int
