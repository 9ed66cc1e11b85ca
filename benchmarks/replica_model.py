"""One replica of the model in virtual time: what a prompt and its answer take there, and which prefixes its cache has.

Prompts are computed one after another. All rows that decode get their tokens at one pace, which depends on their number
and is half as fast while a prompt is computed beside them. Rows are not limited: what queues is the prefill.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush

BESIDE_PREFILL = 0.5  # pace of decoding while a prompt is computed


@dataclass(frozen=True, slots=True)
class ReplicaSpeed:
    """prefill: tokens/s. steps: (rows, seconds of a decode step), ascending; between them linear. kv: tokens."""

    prefill: float
    steps: tuple[tuple[int, float], ...]
    kv: int

    def step(self, rows: int) -> float:
        """Seconds of a step; above the last entry as the last two continue."""
        at = min(max(bisect_right([entry[0] for entry in self.steps], rows), 1), len(self.steps) - 1)
        (low, fast), (high, slow) = self.steps[at - 1 : at + 1]
        return fast + (slow - fast) * (rows - low) / (high - low)


# Estimates of a 7B model in bfloat16 from the card's data sheet, not measured: decode is bound by reading 14.2 GB at
# 3.35 TB/s and, with more rows, by their KV; prefill by arithmetic at about half the peak.
H100 = ReplicaSpeed(prefill=33_000.0, steps=((1, 0.0054), (8, 0.0063), (64, 0.0090), (256, 0.0107)), kv=480_000)


class PrefixCache:
    """Least recently used prefixes, by name, up to so many tokens."""

    def __init__(self, tokens: int) -> None:
        self._free = tokens
        self._held: OrderedDict[Hashable, int] = OrderedDict()

    def use(self, name: Hashable) -> int:
        """Tokens held of this prefix, 0 if none; it is the most recently used one now."""
        held = self._held.get(name, 0)
        if held:
            self._held.move_to_end(name)
        return held

    def hold(self, name: Hashable, tokens: int) -> None:
        """Hold this many tokens of it from now on; others go for it."""
        self._free += self._held.pop(name, 0) - tokens
        self._held[name] = tokens
        while self._free < 0 and len(self._held) > 1:
            self._free += self._held.popitem(last=False)[1]

    def clear(self) -> None:
        self._free += sum(self._held.values())
        self._held.clear()


@dataclass(slots=True)
class Replica:
    """Times are seconds of the simulation and never go back. A row is known by the number of its request."""

    speed: ReplicaSpeed
    cache: PrefixCache = field(init=False)
    seconds: list[float] = field(init=False)
    prefill_until: float = 0.0
    done: float = 0.0  # tokens that a row has got that decodes since the start
    at: float = 0.0  # up to when `done` counts
    ends: list[tuple[float, int]] = field(default_factory=list)  # a heap: (`done` at which the row ends, request)

    def __post_init__(self) -> None:
        self.cache = PrefixCache(self.speed.kv)
        self.seconds = [self.speed.step(max(1, rows)) for rows in range(257)]

    def step(self) -> float:
        rows = len(self.ends)
        return self.seconds[rows] if rows < len(self.seconds) else self.speed.step(rows)

    def prefill(self, now: float, tokens: int) -> float:
        """Compute a prompt's tokens behind those that wait; when its first token is there."""
        self._advance(now)
        self.prefill_until = max(now, self.prefill_until) + tokens / self.speed.prefill
        return self.prefill_until + self.step()

    def decode(self, now: float, request: int, tokens: int) -> None:
        """From now on the request gets this many more tokens."""
        self._advance(now)
        heappush(self.ends, (self.done + tokens, request))

    def finish(self, now: float) -> int:
        """Remove the row that ends now; its request."""
        self._advance(now)
        return heappop(self.ends)[1]

    def next_end(self) -> float | None:
        """When the next row ends if nothing comes in between."""
        if not self.ends:
            return None
        needed = max(0.0, self.ends[0][0] - self.done) * self.step()
        slow = max(0.0, self.prefill_until - self.at)
        if needed <= slow * BESIDE_PREFILL:
            return self.at + needed / BESIDE_PREFILL
        return self.at + slow + needed - slow * BESIDE_PREFILL

    def lose(self, now: float) -> list[int]:
        """Everything that it held is gone; the requests that were decoding."""
        cut = [request for _, request in self.ends]
        self.cache.clear()
        self.ends.clear()
        self.at = self.prefill_until = now
        return cut

    def _advance(self, now: float) -> None:
        if self.ends:
            slow = max(0.0, min(now, self.prefill_until) - self.at)
            self.done += (now - self.at - slow * (1 - BESIDE_PREFILL)) / self.step()
        self.at = now
