"""The queue as callers see it: how many wait, for how long, who is refused and when to come again. Knows no rows."""

import time
from collections.abc import Callable

from truss_model.engine.generation import Generation
from truss_model.errors import QueueFull

LEARNING_RATE = 0.1


class WaitingRoom:
    """Requests that have no row yet. The event loop adds, the engine thread takes out; nothing blocks.

    Whoever would wait longer than `seconds`, at the pace of the last admissions, is refused at once.
    """

    def __init__(self, places: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._seconds = seconds
        self._clock = clock
        self._since: dict[Generation, float] = {}
        self._interval = 0.0  # seconds between two admissions while somebody waits, a moving average
        self._last_admission = 0.0

    def __len__(self) -> int:
        return len(self._since)

    def check(self) -> None:
        """Raise QueueFull where one more would not be served in time."""
        if len(self._since) >= self._places or len(self._since) * self._interval > self._seconds:
            raise self._full("Too many requests are waiting; try again later.")

    def enter(self, generation: Generation) -> None:
        self._since[generation] = self._clock()

    def leave(self, generation: Generation) -> None:
        self._since.pop(generation, None)

    def admit(self, generation: Generation) -> bool:
        """Take out a request that has got its first row; False when it had one before."""
        since = self._since.pop(generation, None)
        if since is None:
            return False
        now = self._clock()
        self._interval += LEARNING_RATE * (now - max(since, self._last_admission) - self._interval)
        self._last_admission = now
        return True

    def overdue(self) -> list[tuple[Generation, QueueFull]]:
        """Who has waited too long, with what to tell."""
        before = self._clock() - self._seconds
        # The copy is made in one piece: the event loop adds meanwhile.
        late = [generation for generation, since in self._since.copy().items() if since < before]
        return [(generation, self._full(f"Waited {self._seconds:g} s for a place.")) for generation in late]

    def _full(self, message: str) -> QueueFull:
        """To come again when about a tenth of the queue has been served."""
        about = self._interval * self._places / 10
        return QueueFull(message, retry_after=min(max(1.0, about), max(1.0, self._seconds)))
