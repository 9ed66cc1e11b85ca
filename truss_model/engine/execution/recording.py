"""Device work that was captured once and is replayed. Knows no CUDA."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

T = TypeVar("T")
Replay = Callable[[], object]


@dataclass(slots=True)
class Recording(Generic[T]):
    """`replay` makes the last entry of `made`.

    A CUDA graph keeps addresses alone: `step`, the work that was captured, keeps the tensors that it reads there, and
    `captured` the one that it writes, which other recordings read.
    """

    replay: Replay
    step: Replay
    made: list[T]
    captured: T

    @classmethod
    def of(cls, capture: Callable[[Replay], Replay], step: Replay, made: list[T]) -> Self:
        """Capture `step`, which puts what it makes into `made`."""
        replay = capture(step)
        return cls(replay, step, made, made[-1])
