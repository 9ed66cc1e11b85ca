"""A histogram that one thread fills without a lock and any other may read. Knows no Prometheus."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """What was observed so far: counts[i] values up to bounds[i] and above the bound before, the last one above all.

    total: the sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """bounds: ascending, inclusive upper ends of the buckets; one bucket more takes what is above."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """times: how many such values; 0 changes nothing."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def read(self) -> Distribution:
        """A copy; its total may lack the observation that is being made."""
        return Distribution(self._bounds, tuple(self._counts), self._total)
