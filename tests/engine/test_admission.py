"""Who may wait, for how long, and who is refused at once because the wait would be too long."""

import pytest

from truss_model.engine.admission import AdmissionQueue
from truss_model.engine.generation import Generation
from truss_model.errors import QueueFull


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def request() -> Generation:
    return Generation(1, 1, lambda *_: None)


def serve_one_each(room: AdmissionQueue, clock: Clock, seconds: float, requests: int) -> None:
    """A queue that is never empty, of which one request is admitted every so many seconds."""
    held = request()
    room.enter(held)
    for _ in range(requests):
        clock.now += seconds
        newcomer = request()
        room.enter(newcomer)
        assert room.admit(held)
        held = newcomer
    room.leave(held)


def accepted_at_once(room: AdmissionQueue) -> int:
    """How many requests enter before the first one is refused."""
    for number in range(1000):
        try:
            room.check()
        except QueueFull:
            return number
        room.enter(request())
    raise AssertionError("none is refused")


def test_as_many_as_there_are_places(clock: Clock) -> None:
    room = AdmissionQueue(2, 30.0, clock)
    first, second = request(), request()
    for generation in (first, second):
        room.check()
        room.enter(generation)
    with pytest.raises(QueueFull, match="Too many") as refused:
        room.check()
    assert refused.value.retry_after == 1.0
    assert room.admit(first)
    room.check()
    assert not room.admit(first)
    room.leave(second)
    assert len(room) == 0


def test_who_would_wait_too_long_is_refused_at_once(clock: Clock) -> None:
    room = AdmissionQueue(100, 30.0, clock)
    serve_one_each(room, clock, 5.0, 100)
    assert accepted_at_once(room) == 7
    with pytest.raises(QueueFull) as refused:
        room.check()
    assert refused.value.retry_after == 30.0  # a tenth of the places takes longer than anybody may wait


def test_the_pace_is_learnt_anew(clock: Clock) -> None:
    room = AdmissionQueue(100, 30.0, clock)
    serve_one_each(room, clock, 5.0, 100)
    serve_one_each(room, clock, 0.01, 100)
    assert accepted_at_once(room) == 100  # every place; at 5 s each it would be 7


def test_an_idle_time_is_no_pace(clock: Clock) -> None:
    room = AdmissionQueue(100, 30.0, clock)
    for _ in range(50):
        clock.now += 3600.0
        newcomer = request()
        room.enter(newcomer)
        assert room.admit(newcomer)
    assert accepted_at_once(room) == 100


def test_who_has_waited_too_long_is_told(clock: Clock) -> None:
    room = AdmissionQueue(100, 30.0, clock)
    early, late = request(), request()
    room.enter(early)
    clock.now += 29.0
    room.enter(late)
    assert room.overdue() == []
    clock.now += 2.0
    ((generation, error),) = room.overdue()
    assert generation is early
    assert (error.status, error.message) == (429, "The request waited 30 s in the queue.")
