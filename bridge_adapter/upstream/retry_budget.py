"""How many retries a model's upstreams bear: a share of the requests, so that a fault cannot multiply the load. Pure.

After "Handling Overload" in Beyer et al., Site Reliability Engineering (2016), chapter 21.
"""

import time
from collections import deque
from collections.abc import Callable

WINDOW = 10  # seconds
SHARE = 0.2
LEAST = 10  # retries in a window that are free, for a service that has few requests


class RetryBudget:
    """Counts of the last WINDOW seconds, by the second."""

    def __init__(
        self, *, share: float = SHARE, least: int = LEAST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share = share
        self._least = least
        self._clock = clock
        self._seconds: deque[list[int]] = deque()  # second, requests, retries
        self._requests = 0
        self._retries = 0

    def request(self) -> None:
        """One more request, not counting its retries."""
        self._requests += 1
        self._this_second()[1] += 1

    def take(self) -> bool:
        """Whether one more retry is within the budget; if so it is counted."""
        counts = self._this_second()
        if self._retries + 1 > max(self._least, self._share * self._requests):
            return False
        self._retries += 1
        counts[2] += 1
        return True

    def _this_second(self) -> list[int]:
        """The counts of now, after those that have left the window are forgotten."""
        now = int(self._clock())
        if self._seconds and self._seconds[-1][0] == now:
            return self._seconds[-1]
        while self._seconds and self._seconds[0][0] <= now - WINDOW:
            _, requests, retries = self._seconds.popleft()
            self._requests -= requests
            self._retries -= retries
        self._seconds.append([now, 0, 0])
        return self._seconds[-1]
