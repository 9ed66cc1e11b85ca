"""Counters and gauges of an engine."""

from dataclasses import dataclass
from typing import NamedTuple


class EngineStats(NamedTuple):
    """Counts since the start, and the current state. A tuple: it is made twice a step, and sent as it is."""

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
    page_tokens: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to run the model that was tried at the start. outcome: "serves", "off" or "failed".

    gap: largest distance of log-probabilities to the untouched model's, None if it was not measured. seconds: of making
    the model ready and checking it.
    """

    rung: str
    outcome: str
    gap: float | None
    detail: str
    seconds: float
