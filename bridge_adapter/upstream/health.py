"""Whether an upstream is worth asking, told by how its last calls ended: a circuit breaker. Pure but for its clock.

CLOSED --failures in a row--> OPEN --cooldown over--> HALF_OPEN --a trial succeeds--> CLOSED
                                ^---------a trial fails----------'
"""

import time
from collections.abc import Callable
from enum import Enum


class Circuit(Enum):
    """CLOSED: asked. OPEN: not asked. HALF_OPEN: one call at a time may try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Health:
    """One upstream's. Seconds; every trial that fails doubles the cooldown up to `longest`."""

    def __init__(
        self,
        *,
        failures: int = 3,
        cooldown: float = 1.0,
        longest: float = 15.0,
        trial: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """trial: how long a trial may leave its outcome open before another call may try."""
        self._limit = failures
        self._first_cooldown = cooldown
        self._longest = longest
        self._trial = trial
        self._clock = clock
        self._failures = 0
        self._cooldown = cooldown
        self._open_until = 0.0
        self._trial_until: float | None = None

    @property
    def circuit(self) -> Circuit:
        if self._failures < self._limit:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._open_until else Circuit.HALF_OPEN

    @property
    def available(self) -> bool:
        """Whether a call may be sent now."""
        circuit = self.circuit
        if circuit is Circuit.HALF_OPEN:
            return self._trial_until is None or self._clock() >= self._trial_until
        return circuit is Circuit.CLOSED

    @property
    def trial_due(self) -> bool:
        """Whether the next call is the one that finds out if it is back."""
        return self.circuit is Circuit.HALF_OPEN and self.available

    @property
    def retry_at(self) -> float:
        """When it may be tried next, by the clock; in the past while it is closed."""
        return self._open_until

    def sent(self) -> None:
        """A call is on its way; while half open it is the trial, and no other call may be sent."""
        if self.circuit is Circuit.HALF_OPEN:
            self._trial_until = self._clock() + self._trial

    def succeeded(self) -> None:
        """A call was answered, be it with a refusal of the request: the upstream is there."""
        self._failures = 0
        self._cooldown = self._first_cooldown
        self._trial_until = None

    def failed(self) -> None:
        """A call got no answer: refused connection, broken off, timeout, 5xx."""
        was_trial = self._trial_until is not None
        self._failures += 1
        self._trial_until = None
        if self._failures < self._limit:
            return
        if was_trial:
            self._cooldown = min(2 * self._cooldown, self._longest)
        self._open_until = self._clock() + self._cooldown

    def abandoned(self) -> None:
        """A call ended without saying anything of the upstream, as when the client left."""
        self._trial_until = None
